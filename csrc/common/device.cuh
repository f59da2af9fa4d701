// What a kernel's body may use: CUDA's own headers under nvcc, the emulation of the execution model
// under a host compiler. Every *_kernel.cuh includes this file and nothing else of CUDA's.

#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// A kernel's argument that is read where it is given, never copied to each thread.
#define SIGN_EXT_GRID_CONSTANT __grid_constant__
#else
#include "testing/host_cuda.h"
#define SIGN_EXT_GRID_CONSTANT
#endif
