// Two neighbouring channels of a position, which a lane has at a time: loaded, activated, rounded,
// stored, and their bits.

#pragma once

#include "common/clamp.cuh"
#include "common/pack.cuh"
#include "inverted_residual/inverted_residual_product.cuh"

namespace sign_ext::block {

struct Pair {
  float value[2];
};

__device__ __forceinline__ void add(const Pair& more, Pair& pair) {
  pair.value[0] += more.value[0];
  pair.value[1] += more.value[1];
}

template <typename T>
__device__ __forceinline__ Pair load_pair(const T* address) {
  const auto pack = load_pack<T, 2>(address);
  return {{widen(pack.values[0]), widen(pack.values[1])}};
}

// A pair as it is stored.
template <typename T>
__device__ __forceinline__ Pack<T, 2> rounded(const Pair& pair) {
  return {{narrow<T>(pair.value[0]), narrow<T>(pair.value[1])}};
}
template <>
__device__ __forceinline__ Pack<__nv_bfloat16, 2> rounded(const Pair& pair) {
  return narrow_both(pair.value[0], pair.value[1]);
}

template <typename T>
__device__ __forceinline__ void store_pair(T* address, const Pair& pair) {
  store_pack(address, rounded<T>(pair));
}

// Activates a pair and stores it, where it is there; returns which of the two pass, as bits
// 0 and 1. What is stored lies between the bounds or is NaN, so that no more than equality with
// them is left to ask.
template <typename T>
__device__ __forceinline__ unsigned int activate_and_store(const Bounds& bounds, const Pair& pair,
                                                           T* address, bool there) {
  const auto stored = rounded<T>({{clamp_or_nan(pair.value[0], bounds.low, bounds.high),
                                   clamp_or_nan(pair.value[1], bounds.low, bounds.high)}});
  unsigned int bits = 0;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const float y = widen(stored.values[c]);
    bits |= (y != bounds.low && y != bounds.high ? 1u : 0u) << c;
  }
  if (there) store_pack(address, stored);
  return bits;
}

// A blocked cotangent is 0 whatever it was.
__device__ __forceinline__ void pull_back_pair(unsigned int bits, Pair& pair) {
  if ((bits & 1u) == 0) pair.value[0] = 0.0f;
  if ((bits & 2u) == 0) pair.value[1] = 0.0f;
}

// The bits that 4 neighbouring lanes have, in each of them.
__device__ __forceinline__ unsigned int joined(unsigned int bits) {
  bits |= __shfl_xor_sync(0xffffffffu, bits, 1);
  return bits | __shfl_xor_sync(0xffffffffu, bits, 2);
}

}  // namespace sign_ext::block
