// common/lanes_body.h with AVX-512: 16 lanes.

constexpr int kLanes = 16;
using Floats = __m512;
using Ints = __m512i;
using Bits = __mmask16;

// GCC 12 warns about uninitialised values inside some intrinsics without a mask.
constexpr Bits kAllLanes = 0xffff;

SIGN_EXT_INLINE Bits lanes_of(Whole) { return 0xffff; }
SIGN_EXT_INLINE Bits lanes_of(Part part) { return static_cast<Bits>((1u << part.count) - 1u); }

SIGN_EXT_INLINE Floats all(float value) { return _mm512_set1_ps(value); }
SIGN_EXT_INLINE Ints all(int value) { return _mm512_set1_epi32(value); }

SIGN_EXT_INLINE Floats load(const float* from, Whole) { return _mm512_loadu_ps(from); }
SIGN_EXT_INLINE Floats load(const float* from, Part part) {
  return _mm512_maskz_loadu_ps(lanes_of(part), from);
}
SIGN_EXT_INLINE Floats widened(__m256i bits) {
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(kAllLanes, _mm512_maskz_cvtepu16_epi32(kAllLanes, bits), 16));
}
SIGN_EXT_INLINE Floats load(const std::uint16_t* from, Whole) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
SIGN_EXT_INLINE Floats load(const std::uint16_t* from, Part part) {
  return widened(_mm256_maskz_loadu_epi16(lanes_of(part), from));
}

// The value as it reads back after a store: rounded to nearest, ties to even. store() requires
// values rounded this way.
SIGN_EXT_INLINE Floats as_stored(const float*, Floats value) { return value; }
SIGN_EXT_INLINE Floats as_stored(const std::uint16_t*, Floats value) {
  const Ints bits = _mm512_castps_si512(value);
  const Ints odd = _mm512_and_si512(_mm512_maskz_srli_epi32(kAllLanes, bits, 16), all(1));
  const Ints rounded = _mm512_add_epi32(_mm512_add_epi32(bits, all(0x7fff)), odd);
  const Bits nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_mask_mov_epi32(rounded, nan, all(0x7fc00000)),
                                              all(static_cast<int>(0xffff0000))));
}
SIGN_EXT_INLINE void store(float* to, Floats value, Whole) { _mm512_storeu_ps(to, value); }
SIGN_EXT_INLINE void store(float* to, Floats value, Part part) {
  _mm512_mask_storeu_ps(to, lanes_of(part), value);
}
SIGN_EXT_INLINE __m256i upper_halves(Floats value) {
  const Ints high = _mm512_maskz_srli_epi32(kAllLanes, _mm512_castps_si512(value), 16);
  return _mm512_maskz_cvtepi32_epi16(kAllLanes, high);
}
SIGN_EXT_INLINE void store(std::uint16_t* to, Floats value, Whole) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper_halves(value));
}
SIGN_EXT_INLINE void store(std::uint16_t* to, Floats value, Part part) {
  _mm256_mask_storeu_epi16(to, lanes_of(part), upper_halves(value));
}

SIGN_EXT_INLINE Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
SIGN_EXT_INLINE Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
SIGN_EXT_INLINE Floats times_plus(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// a > b ? a : b, and a < b ? a : b. With the bound as the first argument NaN passes, as in
// sign_ext::activate.
SIGN_EXT_INLINE Floats maximum(Floats a, Floats b) { return _mm512_maskz_max_ps(kAllLanes, a, b); }
SIGN_EXT_INLINE Floats minimum(Floats a, Floats b) { return _mm512_maskz_min_ps(kAllLanes, a, b); }

SIGN_EXT_INLINE Bits greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
// low < value < high or NaN: the bit that sign_ext::passes returns for a clamp.
SIGN_EXT_INLINE Bits between(Floats value, Floats low, Floats high) {
  const Bits above = _mm512_cmp_ps_mask(value, low, _CMP_NLE_UQ);
  return _mm512_mask_cmp_ps_mask(above, value, high, _CMP_NGE_UQ);
}
SIGN_EXT_INLINE Bits is_nan(Floats value) { return _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q); }
// `bits` where neither is NaN.
SIGN_EXT_INLINE Bits and_numbers(Bits bits, Floats a, Floats b) {
  return _mm512_mask_cmp_ps_mask(bits, a, b, _CMP_ORD_Q);
}
SIGN_EXT_INLINE Bits equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask(a, b); }
// These stay in the mask registers; | and & would not.
SIGN_EXT_INLINE Bits either(Bits a, Bits b) { return _kor_mask16(a, b); }
SIGN_EXT_INLINE Bits both(Bits a, Bits b) { return _kand_mask16(a, b); }
SIGN_EXT_INLINE bool every(Bits bits) { return bits == 0xffff; }
SIGN_EXT_INLINE Floats select(Bits bits, Floats yes, Floats no) {
  return _mm512_mask_mov_ps(no, bits, yes);
}
SIGN_EXT_INLINE Ints select(Bits bits, Ints yes, Ints no) {
  return _mm512_mask_mov_epi32(no, bits, yes);
}
SIGN_EXT_INLINE Floats or_zero(Bits bits, Floats value) { return _mm512_maskz_mov_ps(bits, value); }
SIGN_EXT_INLINE Floats plus_where(Bits bits, Floats a, Floats b) {
  return _mm512_mask_add_ps(a, bits, a, b);
}

SIGN_EXT_INLINE unsigned to_word(Bits bits) { return bits; }
SIGN_EXT_INLINE Bits from_word(unsigned word) { return static_cast<Bits>(word); }
