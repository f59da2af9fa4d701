// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "depthwise/depthwise_kernel.cuh"

namespace sign_ext {

const char* depthwise_cuda(const DepthwiseArgs& args, void* stream) {
  const DepthwiseSizes& s = args.sizes;
  const std::int64_t rows = s.n * s.out_height;
  if (rows * s.out_width * s.channels == 0) return nullptr;
  cudaError_t error = cudaSuccess;
  depthwise_choose(args, [&](auto kernel, auto x, auto out, std::int64_t tiles) {
    const DepthwiseLaunch launch = depthwise_launch(s.channels, tiles, rows);
    kernel<<<launch.grid, launch.block, 0, static_cast<cudaStream_t>(stream)>>>(x, args.weight, out,
                                                                                args);
    error = cudaGetLastError();
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
