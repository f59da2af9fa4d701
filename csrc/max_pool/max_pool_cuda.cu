// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "max_pool/max_pool_kernel.cuh"

namespace sign_ext {

const char* max_pool_cuda(const MaxPoolArgs& args, void* stream) {
  cudaError_t error = cudaSuccess;
  max_pool_choose(args, [&](auto kernel) {
    pool_for_each_launch(args.n, args.channels, args.window.h.out, args.window.w.out, args.window,
                         [&](const PoolGrid& grid, unsigned int blocks) {
                           kernel<<<blocks, kPoolThreads, 0, static_cast<cudaStream_t>(stream)>>>(
                               args, grid);
                           if (error == cudaSuccess) error = cudaGetLastError();
                         });
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
