// Plain loops over the channels of a position, for the compiler to vectorise.

namespace {

inline float as_float(float value) { return value; }
inline float as_float(std::uint16_t bits) { return bfloat16_bits_to_float(bits); }

template <typename T, bool kFactor>
void position_sums_typed(const PositionSumsArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* x = static_cast<const T*>(args.x);
  const auto* y = static_cast<const T*>(args.y);
  const std::int64_t parts = sum_parts(args.channels);
  for (std::int64_t part = begin; part < end; ++part) {
    const std::int64_t image = part / parts;
    const std::int64_t channel = part % parts * kSumChannels;
    const std::int64_t left = args.channels - channel;
    const std::int64_t count = left < kSumChannels ? left : kSumChannels;
    float total[kSumChannels] = {};
    float some[kSumChannels];
    for (std::int64_t first = 0; first < args.positions; first += kSumRows) {
      const std::int64_t last =
          args.positions - first < kSumRows ? args.positions : first + kSumRows;
      for (std::int64_t c = 0; c < count; ++c) some[c] = 0.0f;
      for (std::int64_t position = first; position < last; ++position) {
        const std::int64_t at = (image * args.positions + position) * args.channels + channel;
        const T* const row = x + at;
        if constexpr (kFactor) {
          const T* const other = y + at;
          for (std::int64_t c = 0; c < count; ++c) some[c] += as_float(row[c]) * as_float(other[c]);
        } else {
          for (std::int64_t c = 0; c < count; ++c) some[c] += as_float(row[c]);
        }
      }
      for (std::int64_t c = 0; c < count; ++c) total[c] += some[c];
    }
    float* const out = args.out + image * args.channels + channel;
    for (std::int64_t c = 0; c < count; ++c) out[c] = args.factor * total[c];
  }
}

// `out` may be x, which the compiler cannot vectorise unless it is told that both are one array.
template <bool kShift>
inline void gate_row(const float* x, float* out, const float* scale, const float* shift,
                     std::int64_t channels) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (std::int64_t c = 0; c < channels; ++c) {
    out[c] = kShift ? x[c] * scale[c] + shift[c] : x[c] * scale[c];
  }
}
template <bool kShift>
inline void gate_row(const std::uint16_t* x, std::uint16_t* out, const float* scale,
                     const float* shift, std::int64_t channels) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (std::int64_t c = 0; c < channels; ++c) {
    const float v = bfloat16_bits_to_float(x[c]) * scale[c];
    out[c] = float_to_bfloat16_bits(kShift ? v + shift[c] : v);
  }
}

template <typename T>
void gate_typed(const GateArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t at = row * args.channels;
    const std::int64_t constant = row / args.positions * args.channels;
    if (args.shift != nullptr) {
      gate_row<true>(x + at, out + at, args.scale + constant, args.shift + constant, args.channels);
    } else {
      gate_row<false>(x + at, out + at, args.scale + constant, nullptr, args.channels);
    }
  }
}

template <typename T>
void position_sums_any_factor(const PositionSumsArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.y != nullptr) {
    position_sums_typed<T, true>(args, begin, end);
  } else {
    position_sums_typed<T, false>(args, begin, end);
  }
}

}  // namespace

inline void position_sums_parts(const PositionSumsArgs& args, std::int64_t begin,
                                std::int64_t end) {
  if (args.type == ElementType::kBFloat16) {
    position_sums_any_factor<std::uint16_t>(args, begin, end);
  } else {
    position_sums_any_factor<float>(args, begin, end);
  }
}

inline void gate_rows(const GateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.type == ElementType::kBFloat16) {
    gate_typed<std::uint16_t>(args, begin, end);
  } else {
    gate_typed<float>(args, begin, end);
  }
}
