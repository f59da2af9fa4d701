// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "average_pool_backward/average_pool_backward_kernel.cuh"

namespace sign_ext {

const char* average_pool_backward_cuda(const AveragePoolBackwardArgs& args, void* stream) {
  cudaError_t error = cudaSuccess;
  average_pool_backward_choose(args, [&](auto kernel) {
    pool_for_each_launch(args.n, args.channels, args.window.h.size, args.window.w.size, args.window,
                         [&](const PoolGrid& grid, unsigned int blocks) {
                           kernel<<<blocks, kPoolThreads, 0, static_cast<cudaStream_t>(stream)>>>(
                               args, grid);
                           if (error == cudaSuccess) error = cudaGetLastError();
                         });
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
