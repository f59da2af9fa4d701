// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include <algorithm>

#include "sign_update/sign_update_kernel.cuh"

namespace sign_ext {
namespace {

// The number of blocks of this kernel that can be resident on the current device.
template <typename Kernel>
cudaError_t resident_blocks(Kernel kernel, std::int64_t* blocks) {
  int device = 0;
  int processors = 0;
  int per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, kSignUpdateThreads, 0);
  *blocks = std::max<std::int64_t>(1, std::int64_t{processors} * per_processor);
  return error;
}

}  // namespace

const char* sign_update_cuda(const SignUpdateArgs& args, void* stream) {
  if (args.n == 0) return nullptr;
  cudaError_t error = cudaSuccess;
  sign_update_choose(args, [&](auto kernel, auto delta, int head, std::int64_t packs) {
    std::int64_t most = 0;
    error = resident_blocks(kernel, &most);
    if (error != cudaSuccess) return;
    const std::int64_t wanted = (packs + kSignUpdateThreads - 1) / kSignUpdateThreads;
    const auto grid = static_cast<unsigned int>(std::min(wanted, most));
    kernel<<<grid, kSignUpdateThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        args.p, delta, args.velocity, args.n, head, args.step_size, args.momentum, args.clamp_min,
        args.clamp_max, args.watch, args.counts);
    error = cudaGetLastError();
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
