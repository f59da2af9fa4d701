// The CUDA side of common/watch.h.

#pragma once

#include "common/device.cuh"
#include "common/watch.h"

namespace sign_ext {

__device__ __forceinline__ int larger_bits(int a, int b) { return a > b ? a : b; }

// The bits of the largest magnitudes that a thread has seen.
struct Most {
  int delta = 0;
  int moved = 0;

  __device__ __forceinline__ void see(float one_delta, float one_moved) {
    delta = larger_bits(delta, __float_as_int(one_delta) & kMagnitudeBits);
    moved = larger_bits(moved, __float_as_int(one_moved) & kMagnitudeBits);
  }
};

// Called by one thread of each block when the block is done. Returns whether it is the last block,
// the only one that sees what all blocks wrote. Every launch leaves counts[2] as it found it, so a
// captured graph may be replayed.
__device__ __forceinline__ bool is_last_block(int* counts) {
  __threadfence();  // this block's writes are visible before it is counted
  if (atomicAdd(&counts[2], 1) != static_cast<int>(gridDim.x) - 1) return false;
  __threadfence();
  counts[2] = 0;
  return true;
}

__device__ __forceinline__ void count_step(float* watch, int* counts) {
  int* const bits = reinterpret_cast<int*>(watch);
  const int most = larger_bits(atomicMax(bits, 0), atomicMax(bits + 1, 0));
  counts[0] += 1;
  if (most >= kInfinityBits && counts[0] < counts[1]) counts[1] = counts[0];
}

// Called by every thread of every block. Reports the block's largest magnitudes with one atomic
// operation each, then counts the step if there are counts.
template <int kThreads>
__device__ __forceinline__ void report(float* watch, int* counts, Most most) {
  __shared__ Most warps[kThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    most.delta = larger_bits(most.delta, __shfl_xor_sync(0xffffffffu, most.delta, step));
    most.moved = larger_bits(most.moved, __shfl_xor_sync(0xffffffffu, most.moved, step));
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) {
    most.delta = larger_bits(most.delta, warps[warp].delta);
    most.moved = larger_bits(most.moved, warps[warp].moved);
  }
  atomicMax(reinterpret_cast<int*>(watch), most.delta);
  atomicMax(reinterpret_cast<int*>(watch) + 1, most.moved);
  if (counts != nullptr && is_last_block(counts)) count_step(watch, counts);
}

}  // namespace sign_ext
