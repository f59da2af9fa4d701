// One pass over stretches of rows, one vector at a time. `out` may be x or the residual: the lanes
// of each vector are read before they are written, and no other vector reads them.

#include "common/stream_body.h"
#include "common/stretches_body.h"

namespace {

// activate() and passes() of common/activation.h on lanes, one class per form.
struct ClampLanes {
  static constexpr bool kChoosesOnly = true;
  explicit ClampLanes(const Activation& a) : low(all(a.low)), high(all(a.high)) {}
  Floats apply(Floats v) const { return clamp(v, low, high); }
  Bits passes(Floats y) const { return between(y, low, high); }
  Floats low, high;
};

struct LeakyLanes {
  static constexpr bool kChoosesOnly = false;
  explicit LeakyLanes(const Activation& a) : slope(all(a.slope)) {}
  Floats apply(Floats v) const { return multiply_unless(positive(v), v, slope); }
  Bits passes(Floats y) const { return positive(y); }
  Floats slope;
};

// The arrays of a stretch, starting at its first element.
template <typename X, typename Out>
struct ActivateStretch {
  const X* x;
  Out* out;
  const float* scale;
  const float* bias;
  const Out* residual;
  std::uint8_t* mask;
};

// `extent` lanes (all of them, or the stretch's last few) starting at element i.
template <bool kAffine, typename X, typename Out, typename Act, typename Extent>
inline void activate_lanes(const ActivateStretch<X, Out>& s, std::int64_t i, const Act& act,
                           Extent extent) {
  Floats v = load(s.x + i, extent);
  if constexpr (kAffine) v = multiply_add(v, load(s.scale + i, extent), load(s.bias + i, extent));
  if (s.residual != nullptr) v = add(v, load(s.residual + i, extent));
  v = act.apply(v);
  // A clamp returns its input or a bound; rounding changes neither.
  constexpr bool kMayBeExact = !kAffine && Act::kChoosesOnly && sizeof(X) == sizeof(Out);
  if (!kMayBeExact || s.residual != nullptr) v = rounded_to<Out>(v);
  store(s.out + i, v, extent);
  if (s.mask != nullptr) store_bits(s.mask + i / 8, act.passes(v), extent);
}

template <typename Act, bool kAffine, typename X, typename Out>
void activate_typed(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* x = static_cast<const X*>(args.x);
  auto* out = static_cast<Out*>(args.out);
  const auto* residual = static_cast<const Out*>(args.residual);
  alignas(64) float scale[kAffine ? kStretch : 1];
  alignas(64) float bias[kAffine ? kStretch : 1];
  std::uint8_t ragged[kStretchBytes] = {};
  for_each_stretch(
      begin, end, args.channels, args.mask != nullptr, kAffine,
      [&](std::int64_t channel, std::int64_t count, std::int64_t times) {
        repeat_constant(args.scale, 1.0f, channel, count, times, scale);
        // Adding -0 changes no value, not even the sign of a zero.
        repeat_constant(args.bias, -0.0f, channel, count, times, bias);
      },
      [&](const Stretch& at) {
        std::uint8_t* const mask = args.mask == nullptr ? nullptr : args.mask + at.byte;
        const ActivateStretch<X, Out> s{x + at.element,
                                        out + at.element,
                                        scale,
                                        bias,
                                        residual == nullptr ? nullptr : residual + at.element,
                                        at.ragged ? ragged : mask};
        const Act act(args.activation);
        std::int64_t i = 0;
        for (; i + kLanes <= at.count; i += kLanes) activate_lanes<kAffine>(s, i, act, Whole{});
        const Part rest{static_cast<int>(at.count - i)};
        if (rest.count > 0) activate_lanes<kAffine>(s, i, act, rest);
        if (at.ragged) bits_to_rows(ragged, at.rows, args.channels, mask);
      });
}

template <typename Act, bool kAffine>
void activate_any_type(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.x_type == ElementType::kBFloat16) {
    activate_typed<Act, kAffine, std::uint16_t, std::uint16_t>(args, begin, end);
  } else if (args.out_type == ElementType::kBFloat16) {
    activate_typed<Act, kAffine, float, std::uint16_t>(args, begin, end);
  } else {
    activate_typed<Act, kAffine, float, float>(args, begin, end);
  }
}

template <typename Act>
void activate_any_constants(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.scale != nullptr || args.bias != nullptr) {
    activate_any_type<Act, true>(args, begin, end);
  } else {
    activate_any_type<Act, false>(args, begin, end);
  }
}

template <typename Act, typename Y>
void pack_mask_typed(const PackMaskArgs& args, std::int64_t begin, std::int64_t end) {
  std::uint8_t ragged[kStretchBytes] = {};
  for_each_stretch(
      begin, end, args.channels, true, false, [](std::int64_t, std::int64_t, std::int64_t) {},
      [&](const Stretch& at) {
        const Y* y = static_cast<const Y*>(args.y) + at.element;
        std::uint8_t* const bits = at.ragged ? ragged : args.mask + at.byte;
        const Act act(args.activation);
        std::int64_t i = 0;
        for (; i + kLanes <= at.count; i += kLanes) {
          store_bits(bits + i / 8, act.passes(load(y + i, Whole{})), Whole{});
        }
        const Part rest{static_cast<int>(at.count - i)};
        if (rest.count > 0) store_bits(bits + i / 8, act.passes(load(y + i, rest)), rest);
        if (at.ragged) bits_to_rows(ragged, at.rows, args.channels, args.mask + at.byte);
      });
}

template <typename Act>
void pack_mask_any_type(const PackMaskArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.y_type == ElementType::kBFloat16) {
    pack_mask_typed<Act, std::uint16_t>(args, begin, end);
  } else {
    pack_mask_typed<Act, float>(args, begin, end);
  }
}

}  // namespace

inline void activate_rows(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.activation.slope != 0.0f) {
    activate_any_constants<LeakyLanes>(args, begin, end);
  } else {
    activate_any_constants<ClampLanes>(args, begin, end);
  }
}

inline void pack_mask_rows(const PackMaskArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.activation.slope != 0.0f) {
    pack_mask_any_type<LeakyLanes>(args, begin, end);
  } else {
    pack_mask_any_type<ClampLanes>(args, begin, end);
  }
}
