// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "common/launch.cuh"
#include "gate/gate_kernel.cuh"

namespace sign_ext {

const char* position_sums_cuda(const PositionSumsArgs& args, void* stream) {
  return launched(position_sums_for_each_launch(args, kMostLaunchElements,
                                                OnStream{stream, kSumLanes * kSumSlices}));
}

const char* gate_cuda(const GateArgs& args, void* stream) {
  return launched(gate_for_each_launch(args, kMostLaunchElements, OnStream{stream}));
}

}  // namespace sign_ext
