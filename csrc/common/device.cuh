// What kernel source may use: CUDA's own headers under nvcc, the emulated execution model under a
// host compiler. Every *_kernel.cuh includes this file and no CUDA header.

#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// A kernel argument that is read in place instead of being copied to every thread.
#define SIGN_EXT_GRID_CONSTANT __grid_constant__
#else
#include "testing/host_cuda.h"
#define SIGN_EXT_GRID_CONSTANT
#endif
