// Plain loops for the compiler to vectorise, over blocks that are copied to arrays of their own: so
// it knows that they do not overlap, although `out` may be an input.

constexpr std::int64_t kBlock = 64;

inline void load_block(const float* from, std::int64_t count, float* to) {
  if (count == kBlock) {
    std::memcpy(to, from, kBlock * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < kBlock; ++i) to[i] = i < count ? from[i] : 0.0f;
}
inline void load_block(const std::uint16_t* from, std::int64_t count, float* to) {
  std::uint16_t bits[kBlock] = {};
  std::memcpy(bits, from, static_cast<std::size_t>(count) * sizeof(bits[0]));
  for (std::int64_t i = 0; i < kBlock; ++i) to[i] = bfloat16_bits_to_float(bits[i]);
}
inline void store_block(const float* from, std::int64_t count, float* to) {
  std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
}
inline void store_block(const float* from, std::int64_t count, std::uint16_t* to) {
  std::uint16_t bits[kBlock];
  for (std::int64_t i = 0; i < kBlock; ++i) bits[i] = float_to_bfloat16_bits(from[i]);
  std::memcpy(to, bits, static_cast<std::size_t>(count) * sizeof(bits[0]));
}

template <SmoothFunction kFunction, typename T>
void smooth_typed(const SmoothArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  const SmoothCode code = smooth_code(kFunction);
  const bool fine = args.fraction != nullptr;
  float v[kBlock];
  float d[kBlock];
  std::int16_t whole[kBlock];
  std::uint8_t fraction[kBlock];
  for (std::int64_t at = begin; at < end; at += kBlock) {
    const std::int64_t count = end - at < kBlock ? end - at : kBlock;
    load_block(x + at, count, v);
    for (std::int64_t i = 0; i < kBlock; ++i) {
      const SmoothResult<float> result = smooth_of<kFunction>(v[i]);
      v[i] = result.value;
      d[i] = result.derivative;
    }
    store_block(v, count, out + at);
    if (args.derivative == nullptr) continue;
    for (std::int64_t i = 0; i < kBlock; ++i) {
      const SmoothSteps steps = smooth_coded(d[i], code, fine);
      whole[i] = steps.whole;
      fraction[i] = steps.fraction;
    }
    std::memcpy(args.derivative + at, whole, static_cast<std::size_t>(count) * sizeof(whole[0]));
    if (fine) std::memcpy(args.fraction + at, fraction, static_cast<std::size_t>(count));
  }
}

template <SmoothFunction kFunction, typename T>
void smooth_backward_typed(const SmoothBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* g = static_cast<const T*>(args.g);
  const auto* other = static_cast<const T*>(args.other);
  auto* out = static_cast<T*>(args.out);
  const SmoothCode code = smooth_code(kFunction);
  float v[kBlock];
  float more[kBlock];
  std::int16_t whole[kBlock] = {};
  std::uint8_t fraction[kBlock] = {};
  for (std::int64_t at = begin; at < end; at += kBlock) {
    const std::int64_t count = end - at < kBlock ? end - at : kBlock;
    const auto elements = static_cast<std::size_t>(count);
    load_block(g + at, count, v);
    std::memcpy(whole, args.derivative + at, elements * sizeof(whole[0]));
    if (args.fraction != nullptr) std::memcpy(fraction, args.fraction + at, elements);
    for (std::int64_t i = 0; i < kBlock; ++i) {
      v[i] *= smooth_decoded({whole[i], fraction[i]}, code);
    }
    if (other != nullptr) {
      load_block(other + at, count, more);
      for (std::int64_t i = 0; i < kBlock; ++i) v[i] += more[i];
    }
    store_block(v, count, out + at);
  }
}
