// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "common/launch.cuh"
#include "smooth/smooth_kernel.cuh"

namespace sign_ext {

const char* smooth_cuda(const SmoothArgs& args, void* stream) {
  smooth_for_each_launch(args, kMostLaunchElements, OnStream{stream});
  return launched(nullptr);
}

const char* smooth_backward_cuda(const SmoothBackwardArgs& args, void* stream) {
  smooth_backward_for_each_launch(args, kMostLaunchElements, OnStream{stream});
  return launched(nullptr);
}

}  // namespace sign_ext
