// A warp's tensor-core instructions for small matrices of bfloat16 and TF32, and copies from global
// to shared memory that overlap with arithmetic: PTX on the device (sm_80 and later), the
// emulation's definitions on the host (testing/host_cuda_matrix.h).
//
// A fragment is a warp's part of a 16x8 or 16x16 matrix, two adjacent bfloat16 per register. With
// g = lane / 4 and t = lane % 4, the product D[16, 8] += A[16, 16] B[16, 8] has in each lane
//
//   A  a[0]: row g, columns 2t, 2t + 1     a[1]: row g + 8     a[2], a[3]: the same, columns + 8
//   B  b[0]: rows 2t, 2t + 1 of column g   b[1]: rows + 8
//   D  d[0], d[1]: row g, columns 2t, 2t + 1                   d[2], d[3]: row g + 8
//
// In TF32 the depth is 8 and a register holds one element, a float32 of which 10 mantissa bits are
// used:
//
//   A  a[0]: row g, column t   a[1]: row g + 8   a[2], a[3]: the same, column + 4
//   B  b[0]: row t, column g   b[1]: row t + 4   D  as above

#pragma once

#include <cstdint>

#include "common/device.cuh"
#if !defined(__CUDACC__)
#include "testing/host_cuda_matrix.h"
#endif

namespace sign_ext {

#if defined(__CUDACC__)

// sm_75 and older have no bfloat16 tensor cores. There the launcher refuses to run.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define SIGN_EXT_TENSOR_CORES 1
#else
#define SIGN_EXT_TENSOR_CORES 0
#endif

__device__ __forceinline__ unsigned int shared_address(const void* pointer) {
  return static_cast<unsigned int>(__cvta_generic_to_shared(pointer));
}

// Loads 8x8 matrices of 16-bit elements. Lane 8j + i gives the address of row i of matrix j: 16
// aligned bytes of shared memory, `byte` bytes from the start of an array. Register j of a lane
// receives row g, columns 2t and 2t + 1 of matrix j.
__device__ __forceinline__ void load_matrices(unsigned int (&r)[4], const void* array, int byte) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(array) + static_cast<unsigned int>(byte))
               : "memory");
#endif
}
__device__ __forceinline__ void load_matrices(unsigned int (&r)[2], const void* array, int byte) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(array) + static_cast<unsigned int>(byte))
               : "memory");
#endif
}

// The same with each matrix transposed: register j receives rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void load_transposed(unsigned int (&r)[4], const void* array, int byte) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(array) + static_cast<unsigned int>(byte))
               : "memory");
#endif
}
__device__ __forceinline__ void load_transposed(unsigned int (&r)[2], const void* array, int byte) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(array) + static_cast<unsigned int>(byte))
               : "memory");
#endif
}

// d += a b, with exact products and float32 sums.
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned int (&a)[4],
                                             unsigned int b0, unsigned int b1) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// The same in TF32, on elements rounded by round_to_tf32 (the tensor cores would truncate them).
__device__ __forceinline__ void multiply_add_tf32(float (&d)[4], const unsigned int (&a)[4],
                                                  unsigned int b0, unsigned int b1) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// To nearest, ties away from zero.
__device__ __forceinline__ unsigned int round_to_tf32(unsigned int bits) {
  unsigned int rounded = 0;
#if SIGN_EXT_TENSOR_CORES
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
#endif
  return rounded;
}

// Copies 16 bytes from global to shared memory. They are visible to this thread after its
// wait_for_copies(), and to other threads after a barrier that follows it.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global))
               : "memory");
#endif
}
__device__ __forceinline__ void wait_for_copies() {
#if SIGN_EXT_TENSOR_CORES
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#else

using host_cuda::copy_async_16;
using host_cuda::load_matrices;
using host_cuda::load_transposed;
using host_cuda::multiply_add;
using host_cuda::multiply_add_tf32;
using host_cuda::round_to_tf32;
using host_cuda::wait_for_copies;

#endif

// Clears the D fragments of a warp's MT x NT products.
template <int MT, int NT>
__device__ __forceinline__ void set_to_zero(float (&sums)[MT][NT][4]) {
#pragma unroll
  for (int i = 0; i < MT; ++i) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
    }
  }
}

}  // namespace sign_ext
