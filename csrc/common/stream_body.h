// Vectors of adjacent channels, for CPU kernels that stream over elements and their bit masks.
// Bodies of common/for_each_target.h include this file first, once per target, so it has no include
// guard; <bit>, <cstdint>, <cstring>, half_bits.h and storage.h come before it. Its names belong to
// the including file: other kernels may define other vectors of the same name.
//
//   Floats        kLanes values: 16 with AVX-512, 8 with AVX2, 8 that the compiler may vectorise
//   Bits          one boolean per lane, lane i in bit i, as a bit mask has it in memory
//   Whole, Part   how many lanes hold channels: all, or the first few (at least one). Lanes past a
//                 Part load as 0 and are not stored; no memory past it is accessed.
//
// Memory holds float32, or bfloat16 as std::uint16_t.

namespace {

struct Whole {};

struct Part {
  int count;
};

inline std::uint64_t lowest_bits(std::uint64_t word, std::int64_t count) {
  return word & ((std::uint64_t{1} << count) - 1);
}

#if SIGN_EXT_VECTOR_BITS == 512

constexpr int kLanes = 16;
using Floats = __m512;
using Bits = std::uint16_t;
// GCC 12 warns about uninitialised values inside some intrinsics. Hence shifts written as operators
// and all-ones masks, which compile to the same instructions.
using Words = std::uint32_t __attribute__((vector_size(64)));

inline Bits lanes_of(Part part) { return static_cast<Bits>((1u << part.count) - 1u); }

inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

// maxps and minps return their second operand if the comparison fails, so NaN passes.
inline Floats clamp(Floats v, Floats low, Floats high) {
  return _mm512_maskz_min_ps(0xffff, high, _mm512_maskz_max_ps(0xffff, low, v));
}
inline Bits positive(Floats v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ); }
// Strictly between the bounds, or NaN.
inline Bits between(Floats v, Floats low, Floats high) {
  return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, low, _CMP_NLE_UQ), v, high, _CMP_NGE_UQ);
}
inline Floats zero_unless(Bits bits, Floats v) { return _mm512_maskz_mov_ps(bits, v); }
inline Floats multiply_unless(Bits bits, Floats v, Floats factor) {
  return _mm512_mask_mul_ps(v, static_cast<Bits>(~bits), v, factor);
}

inline Floats load(const float* from, Whole) { return _mm512_loadu_ps(from); }
inline Floats load(const float* from, Part part) {
  return _mm512_maskz_loadu_ps(lanes_of(part), from);
}
inline Floats widened(__m256i bits) {
  return (Floats)((Words)_mm512_maskz_cvtepu16_epi32(0xffff, bits) << 16);
}
inline Floats load(const std::uint16_t* from, Whole) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Floats load(const std::uint16_t* from, Part part) {
  return widened(_mm256_maskz_loadu_epi16(lanes_of(part), from));
}

inline Floats rounded_to_bfloat16(Floats v) {
  const auto words = (Words)v;
  const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) & 0xffff0000u;
  const Bits nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_mask_mov_ps((Floats)rounded, nan, all(float_from_bits(0x7fc00000u)));
}
inline void store(float* to, Floats v, Whole) { _mm512_storeu_ps(to, v); }
inline void store(float* to, Floats v, Part part) { _mm512_mask_storeu_ps(to, lanes_of(part), v); }
inline __m256i upper_halves(Floats v) {
  return _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)((Words)v >> 16));
}
inline void store(std::uint16_t* to, Floats v, Whole) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper_halves(v));
}
inline void store(std::uint16_t* to, Floats v, Part part) {
  _mm256_mask_storeu_epi16(to, lanes_of(part), upper_halves(v));
}

#else

constexpr int kLanes = 8;
using Bits = std::uint8_t;

#if SIGN_EXT_VECTOR_BITS == 256

using Floats = __m256;
using Words = std::uint32_t __attribute__((vector_size(32)));

inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline Floats clamp(Floats v, Floats low, Floats high) {
  return _mm256_min_ps(high, _mm256_max_ps(low, v));
}
inline Bits positive(Floats v) {
  return static_cast<Bits>(_mm256_movemask_ps(_mm256_cmp_ps(v, all(0.0f), _CMP_GT_OQ)));
}
inline Bits between(Floats v, Floats low, Floats high) {
  const __m256 above = _mm256_cmp_ps(v, low, _CMP_NLE_UQ);
  const __m256 below = _mm256_cmp_ps(v, high, _CMP_NGE_UQ);
  return static_cast<Bits>(_mm256_movemask_ps(_mm256_and_ps(above, below)));
}
inline Floats ones_where(Bits bits) {  // all bits of the lane
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return (Floats)_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), lane), lane);
}
inline Floats zero_unless(Bits bits, Floats v) { return _mm256_and_ps(ones_where(bits), v); }
inline Floats multiply_unless(Bits bits, Floats v, Floats factor) {
  return _mm256_blendv_ps(multiply(v, factor), v, ones_where(bits));
}

inline Floats load(const float* from, Whole) { return _mm256_loadu_ps(from); }
inline Floats load(const std::uint16_t* from, Whole) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Floats)((Words)_mm256_cvtepu16_epi32(bits) << 16);
}

inline Floats rounded_to_bfloat16(Floats v) {
  const auto words = (Words)v;
  const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) & 0xffff0000u;
  const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  return _mm256_blendv_ps((Floats)rounded, all(float_from_bits(0x7fc00000u)), nan);
}
inline void store(float* to, Floats v, Whole) { _mm256_storeu_ps(to, v); }
inline void store(std::uint16_t* to, Floats v, Whole) {
  const auto halves = (__m256i)((Words)v >> 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

#else

struct Floats {
  float lane[kLanes];
};

// Sets each lane of `result` to an expression of the lane number i.
#define SIGN_EXT_EACH_LANE(expression)                            \
  Floats result;                                                  \
  for (int i = 0; i < kLanes; ++i) result.lane[i] = (expression); \
  return result
#define SIGN_EXT_EACH_BIT(condition)                                                        \
  unsigned bits = 0;                                                                        \
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>((condition) ? 1 : 0) << i; \
  return static_cast<Bits>(bits)

inline Floats all(float value) { SIGN_EXT_EACH_LANE(value); }
inline Floats add(const Floats& a, const Floats& b) { SIGN_EXT_EACH_LANE(a.lane[i] + b.lane[i]); }
inline Floats multiply(const Floats& a, const Floats& b) {
  SIGN_EXT_EACH_LANE(a.lane[i] * b.lane[i]);
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return add(multiply(a, b), c);
}

inline Floats clamp(const Floats& v, const Floats& low, const Floats& high) {
  SIGN_EXT_EACH_LANE(sign_ext::activate(v.lane[i], {low.lane[i], high.lane[i], 0.0f}));
}
inline Bits positive(const Floats& v) { SIGN_EXT_EACH_BIT(v.lane[i] > 0.0f); }
inline Bits between(const Floats& v, const Floats& low, const Floats& high) {
  SIGN_EXT_EACH_BIT(!(v.lane[i] <= low.lane[i]) & !(v.lane[i] >= high.lane[i]));
}
inline Floats zero_unless(Bits bits, const Floats& v) {
  SIGN_EXT_EACH_LANE((bits >> i & 1) != 0 ? v.lane[i] : 0.0f);
}
inline Floats multiply_unless(Bits bits, const Floats& v, const Floats& factor) {
  SIGN_EXT_EACH_LANE((bits >> i & 1) != 0 ? v.lane[i] : v.lane[i] * factor.lane[i]);
}

inline Floats load(const float* from, Whole) { SIGN_EXT_EACH_LANE(from[i]); }
inline Floats load(const std::uint16_t* from, Whole) {
  SIGN_EXT_EACH_LANE(bfloat16_bits_to_float(from[i]));
}

inline Floats rounded_to_bfloat16(const Floats& v) {
  SIGN_EXT_EACH_LANE(bfloat16_bits_to_float(float_to_bfloat16_bits(v.lane[i])));
}
inline void store(float* to, const Floats& v, Whole) { std::memcpy(to, v.lane, sizeof(v.lane)); }
inline void store(std::uint16_t* to, const Floats& v, Whole) {
  for (int i = 0; i < kLanes; ++i) to[i] = float_to_bfloat16_bits(v.lane[i]);
}

#undef SIGN_EXT_EACH_LANE
#undef SIGN_EXT_EACH_BIT

#endif

template <typename Storage>
inline Floats load(const Storage* from, Part part) {
  Storage whole[kLanes] = {};
  for (int i = 0; i < part.count; ++i) whole[i] = from[i];
  return load(whole, Whole{});
}
template <typename Storage>
inline void store(Storage* to, Floats v, Part part) {
  Storage whole[kLanes];
  store(whole, v, Whole{});
  for (int i = 0; i < part.count; ++i) to[i] = whole[i];
}

#endif

// The value as it reads back after being stored as this type. store() requires values rounded this
// way.
template <typename Storage>
inline Floats rounded_to(Floats v) {
  if constexpr (sizeof(Storage) == sizeof(float)) {
    return v;
  } else {
    return rounded_to_bfloat16(v);
  }
}

inline Bits load_bits(const std::uint8_t* from, Whole) {
  Bits bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}
inline Bits load_bits(const std::uint8_t* from, Part part) {
  return part.count > 8 ? load_bits(from, Whole{}) : from[0];
}
inline void store_bits(std::uint8_t* to, Bits bits, Whole) { std::memcpy(to, &bits, sizeof(bits)); }
inline void store_bits(std::uint8_t* to, Bits bits, Part part) {
  const std::uint64_t kept = lowest_bits(bits, part.count);
  if (part.count > 8) return store_bits(to, static_cast<Bits>(kept), Whole{});
  to[0] = static_cast<std::uint8_t>(kept);
}

}  // namespace
