// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include <algorithm>

#include "stem_update/stem_update_kernel.cuh"

namespace sign_ext {
namespace {

// The number of blocks of this kernel that can be resident on the current device.
template <typename Kernel>
cudaError_t resident_blocks(Kernel kernel, std::size_t shared_bytes, std::int64_t* blocks) {
  int device = 0;
  int processors = 0;
  int per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, kStemThreads,
                                                        shared_bytes);
  *blocks = std::max<std::int64_t>(1, std::int64_t{processors} * per_processor);
  return error;
}

}  // namespace

const char* stem_update_cuda(const StemUpdateArgs& args, void* stream) {
  cudaError_t error = cudaSuccess;
  stem_update_choose(args, [&](auto kernel, const StemTasks& tasks, std::int64_t bytes) {
    if (tasks.count == 0 || args.in_channels == 0) return;
    const auto shared_bytes = static_cast<std::size_t>(bytes);
    std::int64_t most = 0;
    error = resident_blocks(kernel, shared_bytes, &most);
    if (error != cudaSuccess) return;
    const auto grid = static_cast<unsigned int>(std::min(stem_blocks(tasks), most));
    kernel<<<grid, kStemThreads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args, tasks);
    error = cudaGetLastError();
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
