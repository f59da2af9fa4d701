// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "depthwise/depthwise_backward_kernel.cuh"

namespace sign_ext {

const char* depthwise_backward_cuda(const DepthwiseBackwardArgs& args, void* stream) {
  const DepthwiseSizes& s = args.sizes;
  const std::int64_t rows = s.n * s.height;
  if (rows * s.width * s.channels == 0) return nullptr;
  cudaError_t error = cudaSuccess;
  depthwise_backward_choose(args, [&](auto kernel, auto g, std::int64_t tiles) {
    const DepthwiseLaunch launch = depthwise_launch(s.channels, tiles, rows);
    kernel<<<launch.grid, launch.block, 0, static_cast<cudaStream_t>(stream)>>>(g, args.weight,
                                                                                args, tiles);
    error = cudaGetLastError();
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
