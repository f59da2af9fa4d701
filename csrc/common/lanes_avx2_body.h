// common/lanes_body.h with AVX2: 8 lanes.

constexpr int kLanes = 8;
using Floats = __m256;
using Ints = __m256i;
struct Bits {
  __m256 lanes;  // all ones or all zeros
};

SIGN_EXT_INLINE Floats all(float value) { return _mm256_set1_ps(value); }
SIGN_EXT_INLINE Ints all(int value) { return _mm256_set1_epi32(value); }
SIGN_EXT_INLINE Ints lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

SIGN_EXT_INLINE Bits lanes_of(Whole) { return {_mm256_castsi256_ps(all(-1))}; }
SIGN_EXT_INLINE Bits lanes_of(Part part) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(all(part.count), lane_numbers()))};
}

SIGN_EXT_INLINE Floats load(const float* from, Whole) { return _mm256_loadu_ps(from); }
SIGN_EXT_INLINE Floats load(const float* from, Part part) {
  return _mm256_maskload_ps(from, _mm256_castps_si256(lanes_of(part).lanes));
}
SIGN_EXT_INLINE Floats load(const std::uint16_t* from, Whole) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SIGN_EXT_INLINE Floats load(const std::uint16_t* from, Part part) {
  std::uint16_t copy[8] = {};
  for (int lane = 0; lane < part.count; ++lane) copy[lane] = from[lane];
  return load(copy, Whole{});
}

SIGN_EXT_INLINE Floats as_stored(const float*, Floats value) { return value; }
SIGN_EXT_INLINE Floats as_stored(const std::uint16_t*, Floats value) {
  const Ints bits = _mm256_castps_si256(value);
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), all(1));
  const Ints rounded = _mm256_add_epi32(_mm256_add_epi32(bits, all(0x7fff)), odd);
  const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  return _mm256_and_ps(
      _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(all(0x7fc00000)), nan),
      _mm256_castsi256_ps(all(static_cast<int>(0xffff0000))));
}
SIGN_EXT_INLINE void store(float* to, Floats value, Whole) { _mm256_storeu_ps(to, value); }
SIGN_EXT_INLINE void store(float* to, Floats value, Part part) {
  _mm256_maskstore_ps(to, _mm256_castps_si256(lanes_of(part).lanes), value);
}
SIGN_EXT_INLINE void store(std::uint16_t* to, Floats value, Whole) {
  const __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(value), 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
SIGN_EXT_INLINE void store(std::uint16_t* to, Floats value, Part part) {
  std::uint16_t copy[8];
  store(copy, value, Whole{});
  for (int lane = 0; lane < part.count; ++lane) to[lane] = copy[lane];
}

SIGN_EXT_INLINE Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
SIGN_EXT_INLINE Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
SIGN_EXT_INLINE Floats times_plus(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
SIGN_EXT_INLINE Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
SIGN_EXT_INLINE Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }

SIGN_EXT_INLINE Bits greater(Floats a, Floats b) { return {_mm256_cmp_ps(a, b, _CMP_GT_OQ)}; }
SIGN_EXT_INLINE Bits between(Floats value, Floats low, Floats high) {
  return {_mm256_and_ps(_mm256_cmp_ps(value, low, _CMP_NLE_UQ),
                        _mm256_cmp_ps(value, high, _CMP_NGE_UQ))};
}
SIGN_EXT_INLINE Bits is_nan(Floats value) { return {_mm256_cmp_ps(value, value, _CMP_UNORD_Q)}; }
SIGN_EXT_INLINE Bits and_numbers(Bits bits, Floats a, Floats b) {
  return {_mm256_and_ps(bits.lanes, _mm256_cmp_ps(a, b, _CMP_ORD_Q))};
}
SIGN_EXT_INLINE Bits equal(Ints a, Ints b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))};
}
SIGN_EXT_INLINE Bits either(Bits a, Bits b) { return {_mm256_or_ps(a.lanes, b.lanes)}; }
SIGN_EXT_INLINE Bits both(Bits a, Bits b) { return {_mm256_and_ps(a.lanes, b.lanes)}; }
SIGN_EXT_INLINE bool every(Bits bits) { return _mm256_movemask_ps(bits.lanes) == 0xff; }
SIGN_EXT_INLINE Floats select(Bits bits, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, bits.lanes);
}
SIGN_EXT_INLINE Ints select(Bits bits, Ints yes, Ints no) {
  return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(bits.lanes));
}
SIGN_EXT_INLINE Floats or_zero(Bits bits, Floats value) { return _mm256_and_ps(bits.lanes, value); }
SIGN_EXT_INLINE Floats plus_where(Bits bits, Floats a, Floats b) {
  return plus(a, or_zero(bits, b));
}

SIGN_EXT_INLINE unsigned to_word(Bits bits) {
  return static_cast<unsigned>(_mm256_movemask_ps(bits.lanes));
}
SIGN_EXT_INLINE Bits from_word(unsigned word) {
  const Ints one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return equal(_mm256_and_si256(all(static_cast<int>(word)), one), one);
}
