// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "activate/activate_kernel.cuh"
#include "common/launch.cuh"

namespace sign_ext {

const char* activate_cuda(const ActivateArgs& args, void* stream) {
  return launched(activate_for_each_launch(args, kMostLaunchElements, OnStream{stream}));
}

const char* pack_mask_cuda(const PackMaskArgs& args, void* stream) {
  return launched(pack_mask_for_each_launch(args, kMostLaunchElements, OnStream{stream}));
}

}  // namespace sign_ext
