// Shared memory in the emulation, static and dynamic.
//
// `__shared__ float tile[64];` becomes a static array, which AddressSanitizer and UBSan guard. A
// macro cannot know the name that follows it, so the array is found at run time: the macro also
// leaves a marker in the same function, the executable's symbol table names both, and the static
// variables of one function share the start of their mangled names. The first thread of a block
// that reaches the declaration fills the function's shared arrays with garbage.
//
// This needs ELF and a symbol table (no `strip`, no -s), and kernels without other static
// variables, which nvcc would reject anyway. A shared array that no thread ever writes may read as
// zeros. An alignment goes after the keyword: `__shared__ __align__(16) float tile[64];`. For
// dynamic shared memory see common/dynamic_shared.cuh.

#pragma once

namespace host_cuda {

struct SharedArrays;

// Left next to each declaration of shared memory. Constant-initialized, so it needs no guard
// variable.
struct SharedMarker {
  SharedArrays* function;
};

// Called when a thread reaches a declaration of shared memory.
void enter_shared(SharedMarker& marker);

}  // namespace host_cuda

#define HOST_CUDA_SHARED_(number)                                      \
  static ::host_cuda::SharedMarker host_cuda_shared_marker_##number{}; \
  ::host_cuda::enter_shared(host_cuda_shared_marker_##number);         \
  static
#define HOST_CUDA_SHARED(number) HOST_CUDA_SHARED_(number)
#define __shared__ HOST_CUDA_SHARED(__COUNTER__)
#define __align__(bytes) __attribute__((aligned(bytes)))
