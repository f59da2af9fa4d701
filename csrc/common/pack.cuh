// N adjacent values, loaded or stored in one access.

#pragma once

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

// 8 adjacent channels, which share one byte of a bit mask, as float32. The address is 16-byte
// aligned: one access for bfloat16, two for float32.
template <typename T>
__device__ __forceinline__ void load_8(const T* address, float (&values)[8]) {
  constexpr int kWide = static_cast<int>(16 / sizeof(T));
  Pack<T, kWide> packs[8 / kWide];
#pragma unroll
  for (int part = 0; part < 8 / kWide; ++part) {
    packs[part] = load_pack<T, kWide>(address + part * kWide);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = widen(packs[i / kWide].values[i % kWide]);
}

template <typename T>
__device__ __forceinline__ void store_8(T* address, const float (&values)[8]) {
  constexpr int kWide = static_cast<int>(16 / sizeof(T));
#pragma unroll
  for (int part = 0; part < 8 / kWide; ++part) {
    Pack<T, kWide> pack;
#pragma unroll
    for (int i = 0; i < kWide; ++i) pack.values[i] = narrow<T>(values[part * kWide + i]);
    store_pack<T, kWide>(address + part * kWide, pack);
  }
}

// The same for the first `count` of 8 channels at any address, one access per channel. The others
// load as 0 and are not stored.
template <typename T>
__device__ __forceinline__ void load_up_to_8(const T* address, int count, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = i < count ? widen(address[i]) : 0.0f;
}

template <typename T>
__device__ __forceinline__ void store_up_to_8(T* address, int count, const float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) address[i] = narrow<T>(values[i]);
  }
}

}  // namespace sign_ext
