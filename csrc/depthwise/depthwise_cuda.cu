// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "common/launch.cuh"
#include "depthwise/depthwise_kernel.cuh"

namespace sign_ext {

const char* depthwise_cuda(const DepthwiseArgs& args, void* stream) {
  return launched(
      depthwise_for_each_launch(args, kMostLaunchElements, OnStream{stream, kDepthwiseThreads}));
}

}  // namespace sign_ext
