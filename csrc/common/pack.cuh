// N adjacent values, loaded or stored in one access.

#pragma once

#include <cstdint>
#include <cstring>

#include "common/device.cuh"

namespace sign_ext {

// sizeof(T) * N is 4, 8 or 16 bytes. The alignment lets nvcc emit a single wide access.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// A misaligned wide access is an error on the device. The emulation stops and reports it.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* address) {
#if !defined(__CUDACC__)
  host_cuda::require_aligned(address, alignof(Pack<T, N>));
#endif
  return *reinterpret_cast<const Pack<T, N>*>(address);
}

template <typename T, int N>
__device__ __forceinline__ void store_pack(T* address, const Pack<T, N>& pack) {
#if !defined(__CUDACC__)
  host_cuda::require_aligned(address, alignof(Pack<T, N>));
#endif
  *reinterpret_cast<Pack<T, N>*>(address) = pack;
}

// To float32 from the types that kernels read.
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

// From float32 to the stored type, to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two bfloat16 values as one word, the first one in its lower half. Rounding both is one
// instruction, and a fast one: the conversion of a single value runs at a quarter of its rate.
__device__ __forceinline__ std::uint32_t packed_bfloat16(float first, float second) {
#if defined(__CUDACC__)
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const std::uint32_t*>(&both);
#else
  return narrow<__nv_bfloat16>(first).bits | std::uint32_t{narrow<__nv_bfloat16>(second).bits}
                                                 << 16;
#endif
}

// 8 adjacent channels, which share one byte of a bit mask, as they are stored. In memory they are
// 16-byte aligned: one access for bfloat16, two for float32. bfloat16 is kept in words: taking
// single values apart and joining them again costs an instruction for each.
template <typename T>
struct Eight;

template <>
struct Eight<float> {
  Pack<float, 4> halves[2];

  __device__ __forceinline__ float value(int i) const { return halves[i / 4].values[i % 4]; }
  __device__ __forceinline__ float element(int i) const { return value(i); }
};

template <>
struct Eight<__nv_bfloat16> {
  Pack<std::uint32_t, 4> words;

  __device__ __forceinline__ float value(int i) const {
    const std::uint32_t word = words.values[i / 2];
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
  __device__ __forceinline__ __nv_bfloat16 element(int i) const {
    const auto bits = static_cast<unsigned short>(words.values[i / 2] >> (i % 2 * 16));
#if defined(__CUDACC__)
    return __ushort_as_bfloat16(bits);
#else
    return {bits};
#endif
  }
};

template <typename T>
__device__ __forceinline__ Eight<T> narrow_8(const float (&values)[8]);
template <>
__device__ __forceinline__ Eight<float> narrow_8<float>(const float (&values)[8]) {
  Eight<float> stored;
#pragma unroll
  for (int i = 0; i < 8; ++i) stored.halves[i / 4].values[i % 4] = values[i];
  return stored;
}
template <>
__device__ __forceinline__ Eight<__nv_bfloat16> narrow_8<__nv_bfloat16>(const float (&values)[8]) {
  Eight<__nv_bfloat16> stored;
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    stored.words.values[i / 2] = packed_bfloat16(values[i], values[i + 1]);
  }
  return stored;
}

template <typename T>
__device__ __forceinline__ void widen_8(const Eight<T>& stored, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = stored.value(i);
}

__device__ __forceinline__ void load_8(const float* address, float (&values)[8]) {
  Pack<float, 4> packs[2];
#pragma unroll
  for (int part = 0; part < 2; ++part) packs[part] = load_pack<float, 4>(address + part * 4);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = packs[i / 4].values[i % 4];
}
__device__ __forceinline__ void load_8(const __nv_bfloat16* address, float (&values)[8]) {
  Eight<__nv_bfloat16> stored;
#if defined(__CUDACC__)
  stored.words = *reinterpret_cast<const Pack<std::uint32_t, 4>*>(address);
#else
  host_cuda::require_aligned(address, sizeof(stored));
  std::memcpy(&stored, address, sizeof(stored));
#endif
  widen_8(stored, values);
}

__device__ __forceinline__ void store_8(float* address, const Eight<float>& stored) {
  store_pack<float, 4>(address, stored.halves[0]);
  store_pack<float, 4>(address + 4, stored.halves[1]);
}
__device__ __forceinline__ void store_8(__nv_bfloat16* address,
                                        const Eight<__nv_bfloat16>& stored) {
#if defined(__CUDACC__)
  *reinterpret_cast<Pack<std::uint32_t, 4>*>(address) = stored.words;
#else
  host_cuda::require_aligned(address, sizeof(stored));
  std::memcpy(address, &stored, sizeof(stored));
#endif
}

// The same for the first `count` of 8 channels at any address, one access per channel. The others
// load as 0 and are not stored.
template <typename T>
__device__ __forceinline__ void load_up_to_8(const T* address, int count, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = i < count ? widen(address[i]) : 0.0f;
}

template <typename T>
__device__ __forceinline__ void store_up_to_8(T* address, int count, const Eight<T>& stored) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) address[i] = stored.element(i);
  }
}

template <typename T>
__device__ __forceinline__ void store_8(T* address, const float (&values)[8]) {
  store_8(address, narrow_8<T>(values));
}

template <typename T>
__device__ __forceinline__ void store_up_to_8(T* address, int count, const float (&values)[8]) {
  store_up_to_8(address, count, narrow_8<T>(values));
}

}  // namespace sign_ext
