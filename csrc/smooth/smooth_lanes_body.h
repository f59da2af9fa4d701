// Vectors of elements, in the intrinsics of AVX-512 or AVX2. Of the loops in smooth_plain_body.h
// the compiler makes more instructions, above all where 32 bits become 16 and 8.

#include "common/lanes_body.h"

struct Where {
  Bits bits;
};

struct Value {
  Floats lanes;

  SIGN_EXT_INLINE Value(Floats value) : lanes(value) {}
  SIGN_EXT_INLINE Value(float value) : lanes(all(value)) {}  // so that formulas may hold constants
};

#if SIGN_EXT_VECTOR_BITS == 512

SIGN_EXT_INLINE Value operator-(Value a, Value b) { return _mm512_sub_ps(a.lanes, b.lanes); }
SIGN_EXT_INLINE Value operator/(Value a, Value b) { return _mm512_div_ps(a.lanes, b.lanes); }
template <int kPredicate>
SIGN_EXT_INLINE Where compared(Value a, Value b) {
  return {_mm512_cmp_ps_mask(a.lanes, b.lanes, kPredicate)};
}
SIGN_EXT_INLINE Value power_of_two(Value shifted) {
  const Ints exponent = _mm512_maskz_slli_epi32(kAllLanes, _mm512_castps_si512(shifted.lanes), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(exponent, all(127 << 23)));
}
SIGN_EXT_INLINE Ints truncated(Value v) { return _mm512_maskz_cvttps_epi32(kAllLanes, v.lanes); }
SIGN_EXT_INLINE Value converted(Ints v) { return _mm512_maskz_cvtepi32_ps(kAllLanes, v); }
SIGN_EXT_INLINE Ints sum(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
SIGN_EXT_INLINE Ints times_256(Ints v) { return _mm512_maskz_slli_epi32(kAllLanes, v, 8); }
SIGN_EXT_INLINE Ints over_256(Ints v) { return _mm512_maskz_srai_epi32(kAllLanes, v, 8); }

SIGN_EXT_INLINE void store_whole(std::int16_t* to, Ints v, Whole) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(kAllLanes, v));
}
SIGN_EXT_INLINE void store_whole(std::int16_t* to, Ints v, Part part) {
  _mm256_mask_storeu_epi16(to, lanes_of(part), _mm512_maskz_cvtepi32_epi16(kAllLanes, v));
}
SIGN_EXT_INLINE void store_fraction(std::uint8_t* to, Ints v, Whole) {  // the lowest 8 bits
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_cvtepi32_epi8(kAllLanes, v));
}
SIGN_EXT_INLINE void store_fraction(std::uint8_t* to, Ints v, Part part) {
  _mm_mask_storeu_epi8(to, lanes_of(part), _mm512_maskz_cvtepi32_epi8(kAllLanes, v));
}
SIGN_EXT_INLINE Ints load_whole(const std::int16_t* from, Whole) {
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_maskz_cvtepi16_epi32(kAllLanes, packed);
}
SIGN_EXT_INLINE Ints load_whole(const std::int16_t* from, Part part) {
  return _mm512_maskz_cvtepi16_epi32(kAllLanes, _mm256_maskz_loadu_epi16(lanes_of(part), from));
}
SIGN_EXT_INLINE Ints load_fraction(const std::uint8_t* from, Whole) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_maskz_cvtepu8_epi32(kAllLanes, packed);
}
SIGN_EXT_INLINE Ints load_fraction(const std::uint8_t* from, Part part) {
  return _mm512_maskz_cvtepu8_epi32(kAllLanes, _mm_maskz_loadu_epi8(lanes_of(part), from));
}

#else

SIGN_EXT_INLINE Value operator-(Value a, Value b) { return _mm256_sub_ps(a.lanes, b.lanes); }
SIGN_EXT_INLINE Value operator/(Value a, Value b) { return _mm256_div_ps(a.lanes, b.lanes); }
template <int kPredicate>
SIGN_EXT_INLINE Where compared(Value a, Value b) {
  return {{_mm256_cmp_ps(a.lanes, b.lanes, kPredicate)}};
}
SIGN_EXT_INLINE Value power_of_two(Value shifted) {
  const Ints exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.lanes), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(exponent, all(127 << 23)));
}
SIGN_EXT_INLINE Ints truncated(Value v) { return _mm256_cvttps_epi32(v.lanes); }
SIGN_EXT_INLINE Value converted(Ints v) { return _mm256_cvtepi32_ps(v); }
SIGN_EXT_INLINE Ints sum(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
SIGN_EXT_INLINE Ints times_256(Ints v) { return _mm256_slli_epi32(v, 8); }
SIGN_EXT_INLINE Ints over_256(Ints v) { return _mm256_srai_epi32(v, 8); }

SIGN_EXT_INLINE void store_whole(std::int16_t* to, Ints v, Whole) {
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
}
SIGN_EXT_INLINE void store_fraction(std::uint8_t* to, Ints v, Whole) {
  const __m256i low = _mm256_and_si256(v, all(0xff));
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
SIGN_EXT_INLINE Ints load_whole(const std::int16_t* from, Whole) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
SIGN_EXT_INLINE Ints load_fraction(const std::uint8_t* from, Whole) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
SIGN_EXT_INLINE void store_whole(std::int16_t* to, Ints v, Part part) {
  std::int16_t copy[kLanes];
  store_whole(copy, v, Whole{});
  for (int i = 0; i < part.count; ++i) to[i] = copy[i];
}
SIGN_EXT_INLINE void store_fraction(std::uint8_t* to, Ints v, Part part) {
  std::uint8_t copy[kLanes];
  store_fraction(copy, v, Whole{});
  for (int i = 0; i < part.count; ++i) to[i] = copy[i];
}
SIGN_EXT_INLINE Ints load_whole(const std::int16_t* from, Part part) {
  std::int16_t copy[kLanes] = {};
  for (int i = 0; i < part.count; ++i) copy[i] = from[i];
  return load_whole(copy, Whole{});
}
SIGN_EXT_INLINE Ints load_fraction(const std::uint8_t* from, Part part) {
  std::uint8_t copy[kLanes] = {};
  for (int i = 0; i < part.count; ++i) copy[i] = from[i];
  return load_fraction(copy, Whole{});
}

#endif

SIGN_EXT_INLINE Value operator+(Value a, Value b) { return plus(a.lanes, b.lanes); }
SIGN_EXT_INLINE Value operator*(Value a, Value b) { return times(a.lanes, b.lanes); }
SIGN_EXT_INLINE Value operator-(Value a) { return Value(0.0f) - a; }
SIGN_EXT_INLINE Where operator<(Value a, Value b) { return compared<_CMP_LT_OQ>(a, b); }
SIGN_EXT_INLINE Where operator>(Value a, Value b) { return compared<_CMP_GT_OQ>(a, b); }
SIGN_EXT_INLINE Where operator<=(Value a, Value b) { return compared<_CMP_LE_OQ>(a, b); }
SIGN_EXT_INLINE Where operator>=(Value a, Value b) { return compared<_CMP_GE_OQ>(a, b); }
SIGN_EXT_INLINE Where operator&(Where a, Where b) { return {both(a.bits, b.bits)}; }
SIGN_EXT_INLINE Value quotient(Value a, Value b) { return a / b; }
SIGN_EXT_INLINE Value choose(Where where, Value a, Value b) {
  return select(where.bits, a.lanes, b.lanes);
}
// With the bound as the first argument NaN passes.
SIGN_EXT_INLINE Value at_least(Value x, Value bound) { return maximum(bound.lanes, x.lanes); }
SIGN_EXT_INLINE Value at_most(Value x, Value bound) { return minimum(bound.lanes, x.lanes); }

#include "smooth/smooth_formulas.h"

template <SmoothFunction kFunction, bool kDerivative, bool kFine, typename T, typename Extent>
SIGN_EXT_INLINE void smooth_lanes(const SmoothArgs& args, std::int64_t at, Extent extent) {
  auto* const out = static_cast<T*>(args.out) + at;
  const Value x = load(static_cast<const T*>(args.x) + at, extent);
  const SmoothResult<Value> result = smooth_of<kFunction>(x);
  store(out, as_stored(out, result.value.lanes), extent);
  if constexpr (kDerivative) {
    const SmoothCode code = smooth_code(kFunction);
    const Value steps = result.derivative * code.scale + code.offset;
    const Value bounded = at_most(at_least(steps, 256.0f), 16777087.0f);
    const Bits number = and_numbers(lanes_of(Whole{}), steps.lanes, steps.lanes);
    const Ints coded = sum(truncated(or_zero(number, bounded.lanes)), all(kFine ? 0 : 128));
    store_whole(args.derivative + at, sum(over_256(coded), all(-32768)), extent);
    if constexpr (kFine) store_fraction(args.fraction + at, coded, extent);
  }
}

template <SmoothFunction kFunction, bool kFine, bool kOther, typename T, typename Extent>
SIGN_EXT_INLINE void smooth_backward_lanes(const SmoothBackwardArgs& args, std::int64_t at,
                                           Extent extent) {
  auto* const out = static_cast<T*>(args.out) + at;
  const SmoothCode code = smooth_code(kFunction);
  const Ints whole = load_whole(args.derivative + at, extent);
  Ints all_steps = times_256(sum(whole, all(32768)));
  if constexpr (kFine) all_steps = sum(all_steps, load_fraction(args.fraction + at, extent));
  const Value derivative = (converted(all_steps) - code.offset) * (1.0f / code.scale);
  const Value known = select(equal(whole, all(static_cast<int>(kSmoothNaN))),
                             all(__builtin_nanf("")), derivative.lanes);
  Value v = Value(load(static_cast<const T*>(args.g) + at, extent)) * known;
  if constexpr (kOther) v = v + Value(load(static_cast<const T*>(args.other) + at, extent));
  store(out, as_stored(out, v.lanes), extent);
}

// Calls body(at, Whole or Part) for each vector of elements [begin, end).
template <typename Body>
SIGN_EXT_INLINE void for_each_vector(std::int64_t begin, std::int64_t end, Body body) {
  std::int64_t at = begin;
  for (; at + kLanes <= end; at += kLanes) body(at, Whole{});
  if (at < end) body(at, Part{static_cast<int>(end - at)});
}

template <SmoothFunction kFunction, typename T>
inline void smooth_typed(const SmoothArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.derivative == nullptr) {
    for_each_vector(begin, end, [&](std::int64_t at, auto extent) {
      smooth_lanes<kFunction, false, false, T>(args, at, extent);
    });
  } else if (args.fraction == nullptr) {
    for_each_vector(begin, end, [&](std::int64_t at, auto extent) {
      smooth_lanes<kFunction, true, false, T>(args, at, extent);
    });
  } else {
    for_each_vector(begin, end, [&](std::int64_t at, auto extent) {
      smooth_lanes<kFunction, true, true, T>(args, at, extent);
    });
  }
}

template <SmoothFunction kFunction, typename T, bool kFine>
inline void smooth_backward_fine(const SmoothBackwardArgs& args, std::int64_t begin,
                                 std::int64_t end) {
  if (args.other == nullptr) {
    for_each_vector(begin, end, [&](std::int64_t at, auto extent) {
      smooth_backward_lanes<kFunction, kFine, false, T>(args, at, extent);
    });
  } else {
    for_each_vector(begin, end, [&](std::int64_t at, auto extent) {
      smooth_backward_lanes<kFunction, kFine, true, T>(args, at, extent);
    });
  }
}

template <SmoothFunction kFunction, typename T>
inline void smooth_backward_typed(const SmoothBackwardArgs& args, std::int64_t begin,
                                  std::int64_t end) {
  if (args.fraction == nullptr) {
    smooth_backward_fine<kFunction, T, false>(args, begin, end);
  } else {
    smooth_backward_fine<kFunction, T, true>(args, begin, end);
  }
}
