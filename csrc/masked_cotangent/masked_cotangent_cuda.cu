// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "common/launch.cuh"
#include "masked_cotangent/masked_cotangent_kernel.cuh"

namespace sign_ext {

const char* masked_cotangent_cuda(const MaskedCotangentArgs& args, void* stream) {
  return launched(masked_cotangent_for_each_launch(args, kMostLaunchElements, OnStream{stream}));
}

}  // namespace sign_ext
