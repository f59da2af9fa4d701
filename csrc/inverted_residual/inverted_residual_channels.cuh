// The adjacent channels of a position that a lane handles at a time: loading, activating, rounding,
// storing, and their bits. A lane handles two after a product, and four in the windows.

#pragma once

#include "common/clamp.cuh"
#include "common/pack.cuh"
#include "inverted_residual/inverted_residual.h"

namespace sign_ext::block {

template <int N>
struct Channels {
  float value[N];
};
using Pair = Channels<2>;
using Four = Channels<4>;

template <int N>
__device__ __forceinline__ void add(const Channels<N>& more, Channels<N>& to) {
#pragma unroll
  for (int c = 0; c < N; ++c) to.value[c] += more.value[c];
}

template <int N, typename T>
__device__ __forceinline__ Channels<N> load_channels(const T* address) {
  const auto pack = load_pack<T, N>(address);
  Channels<N> channels;
#pragma unroll
  for (int c = 0; c < N; ++c) channels.value[c] = widen(pack.values[c]);
  return channels;
}

// Rounded to the stored type.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> rounded(const Channels<N>& channels) {
  Pack<T, N> pack;
#pragma unroll
  for (int c = 0; c < N; c += 2) {
    narrow_both(channels.value[c], channels.value[c + 1], pack.values[c], pack.values[c + 1]);
  }
  return pack;
}

template <typename T, int N>
__device__ __forceinline__ void store_channels(T* address, const Channels<N>& channels) {
  store_pack(address, rounded<T>(channels));
}

// Activates the channels and, if they are `there`, stores them. Returns which of them pass, as bits
// 0 to N - 1. A stored value lies between the bounds or is NaN, so comparing for equality with the
// bounds is enough.
template <typename T, int N>
__device__ __forceinline__ unsigned int activate_and_store(const Bounds& bounds,
                                                           Channels<N> channels, T* address,
                                                           bool there) {
#pragma unroll
  for (int c = 0; c < N; ++c) {
    channels.value[c] = clamp_or_nan(channels.value[c], bounds.low, bounds.high);
  }
  const auto stored = rounded<T>(channels);
  unsigned int bits = 0;
#pragma unroll
  for (int c = 0; c < N; ++c) {
    const float y = widen(stored.values[c]);
    bits |= (y != bounds.low && y != bounds.high ? 1u : 0u) << c;
  }
  if (there) store_pack(address, stored);
  return bits;
}

// A blocked cotangent becomes 0, NaN included.
template <int N>
__device__ __forceinline__ void pull_back(unsigned int bits, Channels<N>& channels) {
#pragma unroll
  for (int c = 0; c < N; ++c) {
    if ((bits >> c & 1u) == 0) channels.value[c] = 0.0f;
  }
}

// Joins the bits of 2 or 4 adjacent lanes; each lane gets all of them.
template <int kLanes>
__device__ __forceinline__ unsigned int joined(unsigned int bits) {
  bits |= __shfl_xor_sync(0xffffffffu, bits, 1);
  if constexpr (kLanes == 4) bits |= __shfl_xor_sync(0xffffffffu, bits, 2);
  return bits;
}

}  // namespace sign_ext::block
