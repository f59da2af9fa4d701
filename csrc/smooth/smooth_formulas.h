// The smooth activations and their derivatives, of a V: a float, or a vector of them.
//
// smooth.h includes this file for float, and smooth/smooth_lanes_body.h once per vector target,
// each inside its own namespace, so it has no include guard. A V has + - * /, comparisons, and
//
//   choose(condition, a, b)   a where the condition holds, else b
//   at_least(x, bound)        x, or the bound where x is below; NaN stays NaN
//   at_most(x, bound)         x, or the bound where x is above; NaN stays NaN
//   quotient(a, b)            a / b, for b in [1, 2^127]
//   power_of_two(shifted)     2^n of the number n that was rounded by adding 12582912 to it

// e^x for x in [-87, 88]; outside, that of the nearest bound. NaN stays NaN. 2^n e^r with
// |r| <= ln(2) / 2; n is rounded by an addition, whose low bits then are that number.
template <typename V>
SIGN_EXT_ALWAYS_INLINE V smooth_exp(V x) {
  x = at_most(at_least(x, -87.0f), 88.0f);
  const V shifted = x * 1.44269504f + 12582912.0f;
  const V n = shifted - 12582912.0f;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * power_of_two(shifted);
}

template <typename V>
struct SmoothResult {
  V value;
  V derivative;
};

// Of finite x the derivative is in its range; of an infinite x or NaN it is NaN, as in autograd,
// except for the two that are straight lines outside an interval.
template <SmoothFunction kFunction, typename V>
SIGN_EXT_ALWAYS_INLINE SmoothResult<V> smooth_of(V x) {
  if constexpr (kFunction == SmoothFunction::kSilu) {
    const V e = smooth_exp(-x);
    const V s = quotient(V(1.0f), 1.0f + e);  // and 1 - s = e s, exact where s is close to 1
    const V near = at_most(at_least(x, -88.0f), 88.0f);
    const V derivative = s + near * (s * (e * s));
    return {x * choose(x < -87.0f, 0.0f, s), derivative + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kGelu) {
    const V near = at_most(at_least(x, -18.0f), 18.0f);
    const V z = choose(near < 0.0f, -near, near) * 0.707106781f;
    const V e = smooth_exp(-z * z);
    const V t = quotient(V(1.0f), 1.0f + 0.3275911f * z);
    V p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const V tail = 0.5f * p * t * e;  // of the normal distribution, beyond |x|
    const V phi = choose(near < 0.0f, tail, 1.0f - tail);
    return {x * choose(x < -18.0f, 0.0f, phi), phi + near * (0.398942280f * e) + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kGeluTanh) {
    const V near = at_most(at_least(x, -18.0f), 18.0f);
    const V square = near * near;
    const V u = 1.595769122f * near * (1.0f + 0.044715f * square);
    const V e = smooth_exp(-u);
    const V s = quotient(V(1.0f), 1.0f + e);
    const V slope = 1.595769122f * (1.0f + 0.134145f * square);
    return {x * choose(x < -18.0f, 0.0f, s), s + near * slope * (s * (e * s)) + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kHardswish) {
    const V shifted = x + 3.0f;
    const V between = at_most(at_least(shifted, 0.0f), 6.0f);
    const V inside = x * (1.0f / 3.0f) + 0.5f;
    return {x * between * (1.0f / 6.0f), choose(x <= -3.0f, 0.0f, choose(x >= 3.0f, 1.0f, inside))};
  } else if constexpr (kFunction == SmoothFunction::kHardsigmoid) {
    const V shifted = x + 3.0f;
    const V between = at_most(at_least(shifted, 0.0f), 6.0f);
    return {between * (1.0f / 6.0f), choose((x > -3.0f) & (x < 3.0f), 1.0f / 6.0f, 0.0f)};
  } else {
    // tanh(log(1 + w)) = (w^2 + 2 w) / (w^2 + 2 w + 2), w = e^x
    const V near = at_most(at_least(x, -87.0f), 20.0f);
    const V w = smooth_exp(near);
    const V n = w * (w + 2.0f);
    const V q = quotient(V(1.0f), n + 2.0f);
    const V t = n * q;  // and 1 - t = 2 q
    const V s = quotient(w, 1.0f + w);
    return {x * choose(x < -87.0f, 0.0f, t), t + near * s * (2.0f * q * (1.0f + t)) + (x - x)};
  }
}
