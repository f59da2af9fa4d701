// Vector operations that stem_update_ needs beyond common/lanes_body.h: sums across lanes and the
// largest magnitude.

namespace {

// How many pixels are summed together for kChannels channels of the image: as many sums as fit in
// registers, and a multiple of what store_sums combines into one vector.
template <int kChannels>
constexpr int stem_pixels() {
#if SIGN_EXT_VECTOR_BITS == 512
  return kChannels == 1 ? 16 : kChannels == 4 ? 6 : 8;
#elif SIGN_EXT_VECTOR_BITS == 256
  return kChannels == 1 ? 8 : kChannels == 4 ? 3 : 4;
#else
  return 2;
#endif
}

SIGN_EXT_INLINE void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#endif
}

// Keeps a value in a register. Otherwise the compiler reloads it for every product that uses it.
SIGN_EXT_INLINE Floats in_register(Floats value) {
#if SIGN_EXT_VECTOR_BITS == 512
  __asm__("" : "+v"(value));
#endif
  return value;
}

#if SIGN_EXT_VECTOR_BITS == 512

// Returns [a b c d] in every quarter, each summed over that quarter's four lanes.
SIGN_EXT_INLINE Floats quarter_sums(const Floats* v) {
  const Floats ab = plus(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const Floats cd = plus(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  return plus(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

// Quarters a0 + a1, a2 + a3, b0 + b1, b2 + b3.
SIGN_EXT_INLINE Floats paired_quarters(Floats a, Floats b) {
  return plus(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

// to[i] = the sum of v[i]'s lanes.
template <int kCount>
SIGN_EXT_INLINE void store_sums(float* to, const Floats* v) {
  static_assert(kCount % 8 == 0);
  if constexpr (kCount >= 16) {
    const Floats low = paired_quarters(quarter_sums(v), quarter_sums(v + 4));
    const Floats high = paired_quarters(quarter_sums(v + 8), quarter_sums(v + 12));
    _mm512_storeu_ps(to, paired_quarters(low, high));
    if constexpr (kCount > 16) store_sums<kCount - 16>(to + 16, v + 16);
  } else {
    const Floats low = paired_quarters(quarter_sums(v), quarter_sums(v + 4));
    _mm256_storeu_ps(to, _mm512_castps512_ps256(paired_quarters(low, low)));
  }
}

SIGN_EXT_INLINE Ints magnitude_bits(Floats value) {
  return _mm512_and_si512(_mm512_castps_si512(value), all(0x7fffffff));
}
SIGN_EXT_INLINE Ints larger(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
SIGN_EXT_INLINE int largest(Ints value) { return _mm512_reduce_max_epi32(value); }

#elif SIGN_EXT_VECTOR_BITS == 256

template <int kCount>
SIGN_EXT_INLINE void store_sums(float* to, const Floats* v) {
  static_assert(kCount % 4 == 0);
  const Floats ab = _mm256_hadd_ps(v[0], v[1]);
  const Floats cd = _mm256_hadd_ps(v[2], v[3]);
  const Floats abcd = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
  if constexpr (kCount > 4) store_sums<kCount - 4>(to + 4, v + 4);
}

SIGN_EXT_INLINE Ints magnitude_bits(Floats value) {
  return _mm256_and_si256(_mm256_castps_si256(value), all(0x7fffffff));
}
SIGN_EXT_INLINE Ints larger(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
SIGN_EXT_INLINE int largest(Ints value) {
  int lanes[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), value);
  int result = lanes[0];
  for (int i = 1; i < kLanes; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

#else

template <int kCount>
SIGN_EXT_INLINE void store_sums(float* to, const Floats* v) {
  for (int s = 0; s < kCount; ++s) {
    float sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) sum += v[s][i];
    to[s] = sum;
  }
}

SIGN_EXT_INLINE Ints magnitude_bits(Floats value) { return (Ints)value & 0x7fffffff; }
SIGN_EXT_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
SIGN_EXT_INLINE int largest(Ints value) {
  int result = value[0];
  for (int i = 1; i < kLanes; ++i) result = value[i] > result ? value[i] : result;
  return result;
}

#endif

}  // namespace
