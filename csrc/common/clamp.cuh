// A clamp that passes NaN, as PyTorch's does, in two instructions; and the rounding of two values
// to bfloat16 in one.

#pragma once

#include "common/pack.cuh"

namespace sign_ext {

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)

__device__ __forceinline__ float clamp_or_nan(float value, float low, float high) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(value), "f"(low));
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(result), "f"(high));
  return result;
}

__device__ __forceinline__ void narrow_both(float first, float second, __nv_bfloat16& a,
                                            __nv_bfloat16& b) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  a = __low2bfloat16(both);
  b = __high2bfloat16(both);
}

#else

__device__ __forceinline__ float clamp_or_nan(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

__device__ __forceinline__ void narrow_both(float first, float second, __nv_bfloat16& a,
                                            __nv_bfloat16& b) {
  a = narrow<__nv_bfloat16>(first);
  b = narrow<__nv_bfloat16>(second);
}

#endif

__device__ __forceinline__ void narrow_both(float first, float second, float& a, float& b) {
  a = first;
  b = second;
}

}  // namespace sign_ext
