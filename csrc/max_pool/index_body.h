// The packed window positions of the lanes (max_pool/max_pool.h), for the bodies of
// common/for_each_target.h. It is included after common/lanes_body.h and, like that file, has no
// include guard. kBits is 2, 4 or 8; `bytes` points at the first lane's group of 8 channels.
//
//   Positions          one window position per lane, as computed
//   Fields             the packed positions; each lane holds its own field in place, the rest 0

#if SIGN_EXT_VECTOR_BITS == 512

using Positions = __m128i;  // bytes
using Fields = __m128i;     // bytes, and in each the field of its lane

SIGN_EXT_INLINE Positions position(int k) { return _mm_set1_epi8(static_cast<char>(k)); }
SIGN_EXT_INLINE Positions select(Bits bits, Positions yes, Positions no) {
  return _mm_mask_mov_epi8(no, bits, yes);
}
SIGN_EXT_INLINE Positions or_zero(Bits bits, Positions positions) {
  return _mm_maskz_mov_epi8(bits, positions);
}

// Packs the positions into the first bytes.
template <int kBits>
SIGN_EXT_INLINE __m128i packed(Positions positions) {
  if constexpr (kBits == 8) return positions;
  if constexpr (kBits == 4) {
    const __m128i pairs = _mm_maddubs_epi16(positions, _mm_set1_epi16(0x1001));
    return _mm_packus_epi16(pairs, pairs);
  }
  const __m128i pairs = _mm_maddubs_epi16(positions, _mm_set1_epi16(0x0401));
  const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x00100001));
  return _mm_shuffle_epi8(fours, _mm_set1_epi32(0x0c080400));
}

template <int kBits>
SIGN_EXT_INLINE void store_index(std::uint8_t* bytes, Positions positions, Whole) {
  const __m128i fields = packed<kBits>(positions);
  if constexpr (kBits == 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), fields);
  if constexpr (kBits == 4) _mm_storel_epi64(reinterpret_cast<__m128i_u*>(bytes), fields);
  if constexpr (kBits == 2) _mm_storeu_si32(bytes, fields);
}

// Lanes past the part are stored as 0, in whole groups of 8 channels.
template <int kBits>
SIGN_EXT_INLINE void store_index(std::uint8_t* bytes, Positions positions, Part part) {
  positions = or_zero(lanes_of(part), positions);
  if (part.count > 8) return store_index<kBits>(bytes, positions, Whole{});
  const long long group = _mm_cvtsi128_si64(packed<kBits>(positions));
  __builtin_memcpy(bytes, &group, kBits);
}

template <int kBits>
SIGN_EXT_INLINE Fields in_place(__m128i fields) {
  if constexpr (kBits == 8) return fields;
  return _mm_and_si128(fields,
                       _mm_set1_epi32(static_cast<int>(kBits == 4 ? 0xf00ff00f : 0xc0300c03)));
}

// Unpacks the fields from the first bytes of `packed`.
template <int kBits>
SIGN_EXT_INLINE Fields fields_in(__m128i packed) {
  if constexpr (kBits == 4) packed = _mm_unpacklo_epi8(packed, packed);
  if constexpr (kBits == 2) {
    packed =
        _mm_shuffle_epi8(packed, _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
  }
  return in_place<kBits>(packed);
}

template <int kBits>
SIGN_EXT_INLINE Fields load_index(const std::uint8_t* bytes, Whole) {
  if constexpr (kBits == 8) {
    return fields_in<8>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  } else if constexpr (kBits == 4) {
    return fields_in<4>(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(bytes)));
  } else {
    return fields_in<2>(_mm_loadu_si32(bytes));
  }
}

template <int kBits>
SIGN_EXT_INLINE Fields load_index(const std::uint8_t* bytes, Part part) {
  if (part.count > 8) return load_index<kBits>(bytes, Whole{});
  long long group = 0;
  __builtin_memcpy(&group, bytes, kBits);
  return fields_in<kBits>(_mm_cvtsi64_si128(group));
}

// What load_index returns if every lane's position is k.
template <int kBits>
SIGN_EXT_INLINE Fields fields_of(int k) {
  return in_place<kBits>(position(k * (kBits == 8 ? 1 : kBits == 4 ? 0x11 : 0x55)));
}

SIGN_EXT_INLINE Bits equal(Fields a, Fields b) { return _mm_cmpeq_epi8_mask(a, b); }

#elif SIGN_EXT_VECTOR_BITS == 256

using Positions = Ints;
using Fields = Ints;

SIGN_EXT_INLINE Positions position(int k) { return all(k); }
SIGN_EXT_INLINE Positions or_zero(Bits bits, Positions positions) {
  return _mm256_and_si256(_mm256_castps_si256(bits.lanes), positions);
}

template <int kBits>
SIGN_EXT_INLINE void store_index(std::uint8_t* bytes, Positions positions, Whole) {
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(positions), _mm256_extracti128_si256(positions, 1));
  const __m128i eight = _mm_packus_epi16(words, words);
  if constexpr (kBits == 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i_u*>(bytes), eight);
  } else if constexpr (kBits == 4) {
    const __m128i pairs = _mm_maddubs_epi16(eight, _mm_set1_epi16(0x1001));
    _mm_storeu_si32(bytes, _mm_packus_epi16(pairs, pairs));
  } else {
    const __m128i pairs = _mm_maddubs_epi16(eight, _mm_set1_epi16(0x0401));
    const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x00100001));
    _mm_storeu_si16(bytes, _mm_shuffle_epi8(fours, _mm_set1_epi32(0x0c080400)));
  }
}

template <int kBits>
SIGN_EXT_INLINE Fields in_place(Ints fields) {
  if constexpr (kBits == 8) return fields;
  const Ints shifts = _mm256_mullo_epi32(lane_numbers(), all(kBits));
  return _mm256_and_si256(fields, _mm256_sllv_epi32(all((1 << kBits) - 1), shifts));
}

template <int kBits>
SIGN_EXT_INLINE Fields load_index(const std::uint8_t* bytes, Whole) {
  if constexpr (kBits == 8) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(bytes)));
  } else {
    std::uint32_t fields = 0;
    __builtin_memcpy(&fields, bytes, kBits);
    return in_place<kBits>(all(static_cast<int>(fields)));
  }
}

template <int kBits>
SIGN_EXT_INLINE Fields fields_of(int k) {
  const unsigned one = static_cast<unsigned>(k);
  return in_place<kBits>(all(static_cast<int>(kBits == 8   ? one
                                              : kBits == 4 ? one * 0x11111111u
                                                           : one * 0x5555u)));
}

#else

using Positions = Ints;
using Fields = Ints;  // the positions themselves

SIGN_EXT_INLINE Positions position(int k) { return all(k); }
SIGN_EXT_INLINE Positions or_zero(Bits bits, Positions positions) { return positions & bits.lanes; }

template <int kBits>
SIGN_EXT_INLINE void store_index(std::uint8_t* bytes, Positions positions, Whole) {
  std::uint64_t fields = 0;
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; ++i) {
    fields |= static_cast<std::uint64_t>(positions[i]) << (i * kBits);
  }
  for (int i = 0; i < kBits; ++i) bytes[i] = static_cast<std::uint8_t>(fields >> (8 * i));
}

template <int kBits>
SIGN_EXT_INLINE Fields load_index(const std::uint8_t* bytes, Whole) {
  // Each half of the lanes extracts its fields from one 32-bit word, with a shift per lane.
  std::uint64_t fields = 0;
  for (int i = 0; i < kBits; ++i) fields |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
  const auto low = static_cast<std::uint32_t>(fields);
  const auto high = static_cast<std::uint32_t>(fields >> (4 * kBits));
  const Words halves = {low, low, low, low, high, high, high, high};
  const Words shifts = Words{0, 1, 2, 3, 0, 1, 2, 3} * kBits;
  return (Ints)(halves >> shifts & ((1u << kBits) - 1u));
}

template <int kBits>
SIGN_EXT_INLINE Fields fields_of(int k) {
  return all(k);
}

#endif

#if SIGN_EXT_VECTOR_BITS != 512

// 8 lanes are one group of channels, stored and loaded whole even if some channels do not exist.
template <int kBits>
SIGN_EXT_INLINE void store_index(std::uint8_t* bytes, Positions positions, Part part) {
  store_index<kBits>(bytes, or_zero(lanes_of(part), positions), Whole{});
}

template <int kBits>
SIGN_EXT_INLINE Fields load_index(const std::uint8_t* bytes, Part) {
  return load_index<kBits>(bytes, Whole{});
}

#endif
