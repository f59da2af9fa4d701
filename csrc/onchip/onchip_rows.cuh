// What a lane does with a row of a tile: a position's NT chunks, of each of which the lane holds
// two adjacent channels. The four lanes of a position hold its chunks completely.
//
// A tile's chunks fill 16 NT bytes that are a multiple of 16 NT bytes from the start of the array,
// and arrays are 128-byte aligned. So the swizzle is computed once per row, and the pair of chunk j
// is at the byte of the first chunk's, exclusive-or 16 j.

#pragma once

#include <limits>
#include <type_traits>

#include "common/activation.h"
#include "common/pack.cuh"
#include "onchip/onchip_layout.h"

namespace sign_ext::onchip {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The bytes of b (4 to 7) and a (0 to 3) that the four lowest nibbles of the selector name; a
// nibble with bit 3 set repeats that byte's highest bit instead. PTX's prmt.b32.
__device__ __forceinline__ unsigned int permuted(unsigned int a, unsigned int b,
                                                 unsigned int selector) {
  unsigned int result = 0;
#if defined(__CUDACC__)
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
#else
  const std::uint64_t both = std::uint64_t{b} << 32 | a;
  for (int i = 0; i < 4; ++i) {
    const unsigned int nibble = selector >> (4 * i) & 15u;
    unsigned int byte = static_cast<unsigned int>(both >> (8 * (nibble & 7u))) & 0xffu;
    if ((nibble & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
    result |= byte << (8 * i);
  }
#endif
  return result;
}

// All ones in the halves of a lane's pair whose bits are set.
__device__ __forceinline__ unsigned int pair_mask(const PairBits& bits, int j) {
  return permuted(bits.first, bits.second, mask_selector(j));
}

// Two channels as they are stored: bfloat16, the first one in the lower half.
__device__ __forceinline__ unsigned int packed(float first, float second) {
#if defined(__CUDACC__)
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<const unsigned int&>(both);
#else
  return narrow<__nv_bfloat16>(first).bits |
         static_cast<unsigned int>(narrow<__nv_bfloat16>(second).bits) << 16;
#endif
}

template <int NT>
__device__ __forceinline__ void pack_row(const float (&values)[NT][2], unsigned int (&words)[NT]) {
#pragma unroll
  for (int j = 0; j < NT; ++j) words[j] = packed(values[j][0], values[j][1]);
}

// Stores a row's pairs, the first one at byte `at` of shared memory.
template <int NT>
__device__ __forceinline__ void store_row(unsigned char* shared, int at,
                                          const unsigned int (&words)[NT]) {
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    store_pack(reinterpret_cast<unsigned int*>(shared + (at ^ kChunkBytes * j)),
               Pack<unsigned int, 1>{{words[j]}});
  }
}

// Adds the pairs of a row of another array.
template <int NT>
__device__ __forceinline__ void add_row(const unsigned char* shared, int at,
                                        float (&values)[NT][2]) {
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const unsigned int word = load_pack<unsigned int, 1>(reinterpret_cast<const unsigned int*>(
                                                             shared + (at ^ kChunkBytes * j)))
                                  .values[0];
    values[j][0] += __uint_as_float(word << 16);
    values[j][1] += __uint_as_float(word & 0xffff0000u);
  }
}

// The bytes of a plane that a row of NT chunks has.
template <int NT>
using PlaneBytes = std::conditional_t<NT == 4, std::uint32_t,
                                      std::conditional_t<NT == 2, std::uint16_t, std::uint8_t>>;

template <int NT>
__device__ __forceinline__ unsigned int load_plane(const std::uint8_t* bytes) {
  using Bytes = PlaneBytes<NT>;
  return load_pack<Bytes, 1>(reinterpret_cast<const Bytes*>(bytes)).values[0];
}

template <int NT>
__device__ __forceinline__ void store_plane(std::uint8_t* bytes, unsigned int word) {
  using Bytes = PlaneBytes<NT>;
  store_pack(reinterpret_cast<Bytes*>(bytes), Pack<Bytes, 1>{{static_cast<Bytes>(word)}});
}

// Each of the four lanes of a position holds a part of four words; lane t returns word t, complete.
// All lanes of the warp call this.
__device__ __forceinline__ unsigned int word_of_lane(const unsigned int (&parts)[4], int t) {
  const bool upper = (t & 2) != 0;
  const bool odd = (t & 1) != 0;
  unsigned int even_word = upper ? parts[2] : parts[0];
  unsigned int odd_word = upper ? parts[3] : parts[1];
  even_word |= __shfl_xor_sync(0xffffffffu, upper ? parts[0] : parts[2], 2);
  odd_word |= __shfl_xor_sync(0xffffffffu, upper ? parts[1] : parts[3], 2);
  return (odd ? odd_word : even_word) | __shfl_xor_sync(0xffffffffu, odd ? even_word : odd_word, 1);
}

// The kinds of activations (common/activation.h). ReLU is a clamp whose bounds need no registers.
enum class Kind { kRelu, kClamp, kLeaky };

__device__ __forceinline__ Kind kind_of(const Activation& activation) {
  if (activation.slope != 0.0f) return Kind::kLeaky;
  return activation.low == 0.0f && activation.high == kInfinity ? Kind::kRelu : Kind::kClamp;
}

// Activates a row and returns its bits, those of lane 0.
template <Kind kKind, int NT>
__device__ __forceinline__ unsigned int activate_row(float (&values)[NT][2],
                                                     const Activation& activation) {
  unsigned int bits = 0;
#pragma unroll
  for (int j = 0; j < NT; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float& v = values[j][c];
      bool pass;
      if constexpr (kKind == Kind::kLeaky) {
        pass = v > 0.0f;
        v = pass ? v : activation.slope * v;
      } else {
        constexpr Activation kRelu{0.0f, kInfinity, 0.0f};
        const Activation clamp{activation.low, activation.high, 0.0f};
        pass = kKind == Kind::kRelu ? passes(v, kRelu) : passes(v, clamp);
        v = kKind == Kind::kRelu ? activate(v, kRelu) : activate(v, clamp);
      }
      bits |= pass ? plane_bit(j, c) : 0u;
    }
  }
  return bits;
}

// The bits of a row's elements.
struct RowBits {
  unsigned int pass, low, high;  // planes of NT bytes
};

// Pulls a row of cotangents back through an activation: `words` are the cotangents as they are
// stored, `values` the same in float32.
template <int NT>
__device__ __forceinline__ void pull_back_row(const float (&values)[NT][2], unsigned int pass,
                                              int t, float slope, unsigned int (&words)[NT]) {
  const PairBits bits = pair_bits(pass, t);
  if (slope == 0.0f) {  // the same for all threads, as the plan is
#pragma unroll
    for (int j = 0; j < NT; ++j) words[j] &= pair_mask(bits, j);
    return;
  }
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const unsigned int blocked = packed(slope * values[j][0], slope * values[j][1]);
    const unsigned int mask = pair_mask(bits, j);
    words[j] = (words[j] & mask) | (blocked & ~mask);
  }
}

// The bits of a plane whose elements are the maximum of their window, if it is at `position`.
__device__ __forceinline__ unsigned int winners_at(const RowBits& bits, int position) {
  return (position % 2 != 0 ? bits.low : ~bits.low) & (position / 2 != 0 ? bits.high : ~bits.high);
}

}  // namespace sign_ext::onchip
