// One pass over stretches of rows, one vector at a time. `out` may be g or other: the lanes of each
// vector are read before they are written, and no other vector reads them.

#include "common/stream_body.h"
#include "common/stretches_body.h"

namespace {

// pull_back() of common/activation.h on lanes, one class per form.
struct BlockingLanes {
  static constexpr bool kChoosesOnly = true;
  explicit BlockingLanes(float) {}
  Floats pull_back(Floats v, Bits bits) const { return zero_unless(bits, v); }
};

struct SlopeLanes {
  static constexpr bool kChoosesOnly = false;
  explicit SlopeLanes(float value) : slope(all(value)) {}
  Floats pull_back(Floats v, Bits bits) const { return multiply_unless(bits, v, slope); }
  Floats slope;
};

// The arrays of a stretch, starting at its first element.
template <typename T>
struct CotangentStretch {
  const T* g;
  T* out;
  const T* other;
  const std::uint8_t* mask;
  const float* scale;
};

// `extent` lanes (all of them, or the stretch's last few) starting at element i.
template <bool kScale, typename T, typename Act, typename Extent>
inline void masked_cotangent_lanes(const CotangentStretch<T>& s, std::int64_t i, const Act& act,
                                   Extent extent) {
  Floats v = load(s.g + i, extent);
  if (s.other != nullptr) v = add(v, load(s.other + i, extent));
  if (s.mask != nullptr) v = act.pull_back(v, load_bits(s.mask + i / 8, extent));
  if constexpr (kScale) v = multiply(v, load(s.scale + i, extent));
  // Without arithmetic there is nothing to round.
  constexpr bool kMayBeExact = !kScale && Act::kChoosesOnly;
  if (!kMayBeExact || s.other != nullptr) v = rounded_to<T>(v);
  store(s.out + i, v, extent);
}

template <typename Act, bool kScale, typename T>
void masked_cotangent_typed(const MaskedCotangentArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* g = static_cast<const T*>(args.g);
  auto* out = static_cast<T*>(args.out);
  const auto* other = static_cast<const T*>(args.other);
  alignas(64) float scale[kScale ? kStretch : 1];
  std::uint8_t ragged[kStretchBytes];
  for_each_stretch(
      begin, end, args.channels, args.mask != nullptr, kScale,
      [&](std::int64_t channel, std::int64_t count, std::int64_t times) {
        repeat_constant(args.scale, 1.0f, channel, count, times, scale);
      },
      [&](const Stretch& at) {
        const std::uint8_t* const mask = args.mask == nullptr ? nullptr : args.mask + at.byte;
        if (at.ragged) rows_to_bits(mask, at.rows, args.channels, ragged);
        const CotangentStretch<T> s{g + at.element, out + at.element,
                                    other == nullptr ? nullptr : other + at.element,
                                    at.ragged ? ragged : mask, scale};
        const Act act(args.slope);
        std::int64_t i = 0;
        for (; i + kLanes <= at.count; i += kLanes) {
          masked_cotangent_lanes<kScale>(s, i, act, Whole{});
        }
        const Part rest{static_cast<int>(at.count - i)};
        if (rest.count > 0) masked_cotangent_lanes<kScale>(s, i, act, rest);
      });
}

template <typename Act, bool kScale>
void masked_cotangent_any_type(const MaskedCotangentArgs& args, std::int64_t begin,
                               std::int64_t end) {
  if (args.type == ElementType::kBFloat16) {
    masked_cotangent_typed<Act, kScale, std::uint16_t>(args, begin, end);
  } else {
    masked_cotangent_typed<Act, kScale, float>(args, begin, end);
  }
}

template <typename Act>
void masked_cotangent_any_scale(const MaskedCotangentArgs& args, std::int64_t begin,
                                std::int64_t end) {
  if (args.scale != nullptr) {
    masked_cotangent_any_type<Act, true>(args, begin, end);
  } else {
    masked_cotangent_any_type<Act, false>(args, begin, end);
  }
}

}  // namespace

inline void masked_cotangent_rows(const MaskedCotangentArgs& args, std::int64_t begin,
                                  std::int64_t end) {
  if (args.slope != 0.0f) {
    masked_cotangent_any_scale<SlopeLanes>(args, begin, end);
  } else {
    masked_cotangent_any_scale<BlockingLanes>(args, begin, end);
  }
}
