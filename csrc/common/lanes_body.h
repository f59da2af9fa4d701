// Adjacent channels as one vector, for the bodies of common/for_each_target.h: 16 float32 lanes
// with AVX-512, 8 with AVX2, otherwise 8 in the compiler's own vector types. Bodies include this
// file first, once per target, so it has no include guard. Its names belong to the including file:
// other kernels may define other vectors of the same name.
//
//   Floats, Ints       kLanes values
//   Bits               one boolean per lane
//   Whole, Part        how many lanes hold channels: all, or the first few. Lanes past a Part load
//                      as 0 and are not stored; no memory past it is accessed.
//   Storage            float, or std::uint16_t for the bits of a bfloat16

// Vectors are passed in registers only if the function is inlined.
#if !defined(SIGN_EXT_INLINE)
#if defined(__GNUC__)
#define SIGN_EXT_INLINE [[gnu::always_inline]] inline
#else
#define SIGN_EXT_INLINE inline
#endif
#endif

struct Whole {
  static constexpr bool kAll = true;
};

struct Part {
  static constexpr bool kAll = false;
  int count;
};

#if SIGN_EXT_VECTOR_BITS == 512
#include "common/lanes_avx512_body.h"
#elif SIGN_EXT_VECTOR_BITS == 256
#include "common/lanes_avx2_body.h"
#else
#include "common/lanes_generic_body.h"
#endif

// The lanes' bits in a bit mask, starting at this byte. Bits past a Part are stored as 0.
SIGN_EXT_INLINE Bits load_bits(const std::uint8_t* from, Whole) {
  unsigned word = from[0];
  if constexpr (kLanes == 16) word |= static_cast<unsigned>(from[1]) << 8;
  return from_word(word);
}
SIGN_EXT_INLINE Bits load_bits(const std::uint8_t* from, Part part) {
  unsigned word = from[0];
  if (part.count > 8) word |= static_cast<unsigned>(from[1]) << 8;
  return from_word(word);
}
SIGN_EXT_INLINE void store_bits(std::uint8_t* to, Bits bits, Whole) {
  const unsigned word = to_word(bits);
  to[0] = static_cast<std::uint8_t>(word);
  if constexpr (kLanes == 16) to[1] = static_cast<std::uint8_t>(word >> 8);
}
SIGN_EXT_INLINE void store_bits(std::uint8_t* to, Bits bits, Part part) {
  const unsigned word = to_word(bits) & ((1u << part.count) - 1u);
  to[0] = static_cast<std::uint8_t>(word);
  if (part.count > 8) to[1] = static_cast<std::uint8_t>(word >> 8);
}
