// A small emulation of CUDA's execution model for host compilers. The kernel source that nvcc
// compiles for the device is also compiled for the host and run under AddressSanitizer and
// UndefinedBehaviorSanitizer, without a GPU.
//
// It covers: the function qualifiers, grid, block and thread indices, launches, the two 16-bit
// float types and checked alignment of wide accesses (this file); shared memory
// (host_cuda_shared.h); barriers, warp collectives and atomics (host_cuda_intrinsics.h). The
// threads of a launch run one at a time, in an order drawn from a seed, and switch only where they
// wait for each other (host_cuda_threads.h). So a kernel must not wait for another thread in any
// other way, such as polling memory in a loop: it would wait forever.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/half_bits.h"
#include "common/storage.h"
#include "testing/host_cuda_index.h"
#include "testing/host_cuda_intrinsics.h"
#include "testing/host_cuda_launch.h"
#include "testing/host_cuda_shared.h"

// Static, so that a kernel's shared arrays have internal linkage: AddressSanitizer guards no
// others.
#define __global__ [[maybe_unused]] static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// CUDA's names for the 16-bit floats. Kernels widen both, and round to bfloat16.
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

// kernel<<<grid, block, options.dynamic_shared_bytes>>>(args...), in an order drawn from
// options.seed.
template <typename... Parameters>
void launch_with(const Options& options, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 std::type_identity_t<Parameters>... args) {
  auto call = [&] { kernel(args...); };
  Launch::current().run(
      options, grid, block, [](void* context) { (*static_cast<decltype(call)*>(context))(); },
      &call);
}

inline thread_local std::uint64_t launches = 0;

// kernel<<<grid, block>>>(args...). Each launch of a program has its own order, the same in every
// run.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::type_identity_t<Parameters>... args) {
  launch_with(Options{.seed = launches++}, kernel, grid, block, args...);
}

// The same, in the order of a given seed. A kernel that is right under a hundred seeds most likely
// lacks no barrier.
template <typename... Parameters>
void launch_seeded(std::uint64_t seed, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   std::type_identity_t<Parameters>... args) {
  launch_with(Options{.seed = seed}, kernel, grid, block, args...);
}

}  // namespace host_cuda
