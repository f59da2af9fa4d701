// Dynamic shared memory, under one name for every element type. (CUDA rejects two `extern
// __shared__` arrays of the same name and different types.)

#pragma once

#include "common/device.cuh"

namespace sign_ext {

// 16-byte aligned.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char sign_ext_dynamic_shared[];
  return reinterpret_cast<T*>(sign_ext_dynamic_shared);
#else
  return static_cast<T*>(host_cuda::Launch::current().dynamic_shared());
#endif
}

}  // namespace sign_ext
