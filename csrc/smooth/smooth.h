// smooth: a smooth activation and its derivative in one pass.
//
//   v = f(x[i]);  out[i] = v;  derivative[i], fraction[i] = f'(x[i]) in 16 + 8 bits
//
// smooth_backward: a cotangent back through it.
//
//   out[i] = g[i] * f'(x[i]) + other[i]
//
// The derivative is stored, so that the input need not be kept: out may be x. It is a number of
// steps, whole ones in `derivative` and 256ths in `fraction`; 0 and 1 (and 1/6, of hardsigmoid) are
// exact. Without `fraction` the error is at most 1.0e-5, half a step, and on average (root mean
// square) 5.9e-6; of hardswish 2.0e-5 and 1.2e-5. The errors of different layers are independent, so
// after L activations delta is off by about sqrt(L) times 1e-5: too much for float32 activations,
// little for bfloat16's. With `fraction` it is 1e-7 or 2e-7, like float32's own rounding. A derivative that
// is NaN has a code of its own.
//
// Values: to about 2 ulp of f where that is not close to 0; exp is a polynomial of degree 6 (1e-7),
// erfc Abramowitz and Stegun's 7.1.26 (1.5e-7, absolute).
//
// Bytes moved per element of s bytes: forward 2 s + 2, backward 2 s + 2 (with `other` s more), with
// `fraction` 1 more.
// Arithmetic per element: 20 to 40 FLOP forward (an exponential and a division), 3 backward. On a
// GPU memory sets the floor; on a CPU, within the cache, the exponential does.

#pragma once

#include <cstdint>
#include <cstring>

#include "common/activation.h"
#include "common/storage.h"

#if defined(__CUDACC__) || !defined(__GNUC__)
#define SIGN_EXT_ALWAYS_INLINE SIGN_EXT_HOST_DEVICE
#else
// Without a vector target of its own it must be inlined into functions that have one.
#define SIGN_EXT_ALWAYS_INLINE inline __attribute__((always_inline))
#endif

namespace sign_ext {

enum class SmoothFunction : int { kSilu, kGelu, kGeluTanh, kHardswish, kHardsigmoid, kMish };
constexpr int kSmoothFunctions = 6;

struct SmoothArgs {
  const void* x;             // [count] of type
  void* out;                 // [count] of type; may be x
  std::int16_t* derivative;  // [count], or null
  std::uint8_t* fraction;    // [count], or null
  ElementType type;
  SmoothFunction function;
  std::int64_t count;
};

struct SmoothBackwardArgs {
  const void* g;                   // [count] of type
  const std::int16_t* derivative;  // [count]
  const std::uint8_t* fraction;    // [count], or null: 0
  void* out;                       // [count] of type; may be g or other
  const void* other;               // [count] of type, or null
  ElementType type;
  SmoothFunction function;
  std::int64_t count;
};

// How a function's derivative is stored: as derivative * scale + offset, which lies in [256, 2^24).
struct SmoothCode {
  float scale;   // 256ths of a step in 1
  float offset;  // of 0
};

constexpr std::int16_t kSmoothNaN = -32768;

// a where the condition holds, else b, by arithmetic on bits: a branch whose sides compute something
// would keep a loop from being vectorised.
SIGN_EXT_ALWAYS_INLINE float choose(bool condition, float a, float b) {
  std::uint32_t first;
  std::uint32_t second;
  std::memcpy(&first, &a, sizeof(first));
  std::memcpy(&second, &b, sizeof(second));
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
  const std::uint32_t bits = (first & mask) | (second & ~mask);
  float chosen;
  std::memcpy(&chosen, &bits, sizeof(chosen));
  return chosen;
}

// Ranges: [-1/2, 3/2] of hardswish, [-0.13, 1.13] of the others.
SIGN_EXT_ALWAYS_INLINE SmoothCode smooth_code(SmoothFunction function) {
  return function == SmoothFunction::kHardswish ? SmoothCode{6291456.0f, 5242880.0f}
                                                : SmoothCode{12582912.0f, 2097152.0f};
}

struct SmoothSteps {
  std::int16_t whole;
  std::uint8_t fraction;
};

SIGN_EXT_ALWAYS_INLINE SmoothSteps smooth_coded(float derivative, SmoothCode code, bool fine) {
  float steps = derivative * code.scale + code.offset;
  steps = choose(steps < 256.0f, 256.0f, steps);
  steps = choose(steps > 16777087.0f, 16777087.0f, steps);
  steps = choose(steps == steps, steps, 0.0f);
  const std::int32_t rounded = static_cast<std::int32_t>(steps) + (fine ? 0 : 128);
  return {static_cast<std::int16_t>((rounded >> 8) - 32768),
          static_cast<std::uint8_t>(rounded & 0xff)};
}

SIGN_EXT_ALWAYS_INLINE float smooth_decoded(SmoothSteps steps, SmoothCode code) {
  const std::uint32_t nan_bits = 0x7fc00000u;
  float nan;
  std::memcpy(&nan, &nan_bits, sizeof(nan));
  const std::int32_t whole = steps.whole;
  const std::int32_t fraction = steps.fraction;
  const auto all = static_cast<float>((whole + 32768) * 256 + fraction);
  return choose(whole == kSmoothNaN, nan, (all - code.offset) * (1.0f / code.scale));
}

// e^x for x in [-87, 88]; outside, that of the nearest bound. NaN stays NaN. 2^n e^r with
// |r| <= ln(2) / 2; n is rounded by an addition, whose low bits then are that number.
SIGN_EXT_ALWAYS_INLINE float smooth_exp(float x) {
  x = choose(x < -87.0f, -87.0f, x);
  x = choose(x > 88.0f, 88.0f, x);
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + (127u << 23);
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

struct SmoothResult {
  float value;
  float derivative;
};

// Of finite x the derivative is in its range; of an infinite x or NaN it is NaN, as in autograd,
// except for the two that are straight lines outside an interval.
template <SmoothFunction kFunction>
SIGN_EXT_ALWAYS_INLINE SmoothResult smooth_of(float x) {
  if constexpr (kFunction == SmoothFunction::kSilu) {
    const float e = smooth_exp(-x);
    const float s = 1.0f / (1.0f + e);  // and 1 - s = e s, exact where s is close to 1
    const float above = choose(x < -88.0f, -88.0f, x);
    const float near = choose(above > 88.0f, 88.0f, above);
    const float derivative = s + near * (s * (e * s));
    return {x * choose(x < -87.0f, 0.0f, s), derivative + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kGelu) {
    const float above = choose(x < -18.0f, -18.0f, x);
    const float near = choose(above > 18.0f, 18.0f, above);
    const float z = choose(near < 0.0f, -near, near) * 0.707106781f;
    const float e = smooth_exp(-z * z);
    const float t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * e;  // of the normal distribution, beyond |x|
    const float phi = choose(near < 0.0f, tail, 1.0f - tail);
    return {x * choose(x < -18.0f, 0.0f, phi), phi + near * (0.398942280f * e) + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kGeluTanh) {
    const float above = choose(x < -18.0f, -18.0f, x);
    const float near = choose(above > 18.0f, 18.0f, above);
    const float square = near * near;
    const float u = 1.595769122f * near * (1.0f + 0.044715f * square);
    const float e = smooth_exp(-u);
    const float s = 1.0f / (1.0f + e);
    const float slope = 1.595769122f * (1.0f + 0.134145f * square);
    return {x * choose(x < -18.0f, 0.0f, s), s + near * slope * (s * (e * s)) + (x - x)};
  } else if constexpr (kFunction == SmoothFunction::kHardswish) {
    const float shifted = x + 3.0f;
    const float low = choose(shifted < 0.0f, 0.0f, shifted);
    const float between = choose(low > 6.0f, 6.0f, low);
    const float inside = x * (1.0f / 3.0f) + 0.5f;
    return {x * between * (1.0f / 6.0f), choose(x <= -3.0f, 0.0f, choose(x >= 3.0f, 1.0f, inside))};
  } else if constexpr (kFunction == SmoothFunction::kHardsigmoid) {
    const float shifted = x + 3.0f;
    const float low = choose(shifted < 0.0f, 0.0f, shifted);
    const float between = choose(low > 6.0f, 6.0f, low);
    return {between * (1.0f / 6.0f), choose((x > -3.0f) & (x < 3.0f), 1.0f / 6.0f, 0.0f)};
  } else {
    // tanh(log(1 + w)) = (w^2 + 2 w) / (w^2 + 2 w + 2), w = e^x
    const float above = choose(x < -87.0f, -87.0f, x);
    const float near = choose(above > 20.0f, 20.0f, above);
    const float w = smooth_exp(near);
    const float n = w * (w + 2.0f);
    const float q = 1.0f / (n + 2.0f);
    const float t = n * q;  // and 1 - t = 2 q
    const float s = w / (1.0f + w);
    return {x * choose(x < -87.0f, 0.0f, t), t + near * s * (2.0f * q * (1.0f + t)) + (x - x)};
  }
}

// Calls body(constant), constant.value being the function.
template <SmoothFunction kFunction>
struct SmoothConstant {
  static constexpr SmoothFunction value = kFunction;
};

template <typename Body>
inline void with_smooth_function(SmoothFunction function, Body&& body) {
  switch (function) {
    case SmoothFunction::kSilu:
      return body(SmoothConstant<SmoothFunction::kSilu>{});
    case SmoothFunction::kGelu:
      return body(SmoothConstant<SmoothFunction::kGelu>{});
    case SmoothFunction::kGeluTanh:
      return body(SmoothConstant<SmoothFunction::kGeluTanh>{});
    case SmoothFunction::kHardswish:
      return body(SmoothConstant<SmoothFunction::kHardswish>{});
    case SmoothFunction::kHardsigmoid:
      return body(SmoothConstant<SmoothFunction::kHardsigmoid>{});
    case SmoothFunction::kMish:
      return body(SmoothConstant<SmoothFunction::kMish>{});
  }
}

// The CPU kernels over elements [begin, end). Splitting a call anywhere gives bit-identical results.
void smooth_cpu(const SmoothArgs& args, std::int64_t begin, std::int64_t end);
void smooth_backward_cpu(const SmoothBackwardArgs& args, std::int64_t begin, std::int64_t end);

// Launch the CUDA kernels on `stream` (a cudaStream_t) of the current device and return at once.
// They return null on success, else the CUDA error message.
const char* smooth_cuda(const SmoothArgs& args, void* stream);
const char* smooth_backward_cuda(const SmoothBackwardArgs& args, void* stream);

}  // namespace sign_ext
