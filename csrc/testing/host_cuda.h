// A small emulation of CUDA's execution model for host compilers, so that the text of a kernel that
// nvcc compiles for the device is also compiled for the host and run under AddressSanitizer and
// UndefinedBehaviorSanitizer, with no GPU.
//
// Here are: the function qualifiers, grid, block and thread indices, a launch, the two 16-bit float
// types and checked alignment of wide accesses. The threads of a launch run one after another, in
// order, to completion. So this covers kernels whose threads do not talk to each other: there is no
// shared memory, barrier, shuffle or atomic, and using one is a compile error, not a wrong result.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "common/half_bits.h"
#include "common/storage.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned int x, y, z;
};

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
      : x(x_), y(y_), z(z_) {}
};

inline thread_local uint3 threadIdx{0, 0, 0};
inline thread_local uint3 blockIdx{0, 0, 0};
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;

// CUDA's names for the 16-bit floats; kernels only widen them.
struct __nv_bfloat16 {
  std::uint16_t bits;
};

struct __half {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  return sign_ext::bfloat16_bits_to_float(value.bits);
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return {sign_ext::float_to_bfloat16_bits(value)};
}

inline float __half2float(__half value) { return sign_ext::float16_bits_to_float(value.bits); }

namespace host_cuda {

inline void require_aligned(const void* address, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    std::fprintf(stderr,
                 "misaligned %zu-byte access at %p by thread (%u, %u, %u) of block (%u, %u, %u)\n",
                 alignment, address, threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y,
                 blockIdx.z);
    std::_Exit(EXIT_FAILURE);
  }
}

// kernel<<<grid, block>>>(args...): every thread of every block, x fastest.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::type_identity_t<Parameters>... args) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    std::fprintf(stderr, "invalid launch: grid (%u, %u, %u), block (%u, %u, %u)\n", grid.x, grid.y,
                 grid.z, block.x, block.y, block.z);
    std::_Exit(EXIT_FAILURE);
  }
  gridDim = grid;
  blockDim = block;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        for (threadIdx.z = 0; threadIdx.z < block.z; ++threadIdx.z) {
          for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y) {
            for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) {
              kernel(args...);
            }
          }
        }
      }
    }
  }
}

}  // namespace host_cuda
