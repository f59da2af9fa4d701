// N neighbouring values that are loaded or stored in one access.

#pragma once

#include "common/device.cuh"

namespace sign_ext {

// sizeof(T) * N is 4, 8 or 16 bytes; the alignment is what lets nvcc emit one wide access for it.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// A misaligned wide access is an error on the device; the emulation stops there and says so.
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

// Float32 from the types that kernels read.
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

}  // namespace sign_ext
