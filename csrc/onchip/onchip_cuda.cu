// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include <algorithm>

#include "onchip/onchip_kernel.cuh"

namespace sign_ext::onchip {

const char* run_cuda(const Args& args, void* stream) {
  if (args.images == 0 || args.steps == 0) return nullptr;
  int device = 0;
  int processors = 0;
  int major = 0;
  int shared_limit = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (major < 8) {
    return "the device has no bfloat16 tensor cores, which need compute capability 8.0";
  }
  const auto bytes = static_cast<std::size_t>(args.plan.shared_bytes);
  if (args.plan.shared_bytes > shared_limit) {
    return "the plan needs more shared memory than the device has";
  }
  // Set to the device's limit, whatever this plan needs: the attribute belongs to the kernel, not
  // to the launch, and must not be lowered under larger plans launched by other threads or by
  // graphs.
  error = cudaFuncSetAttribute(onchip_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared_limit);
  int resident = 0;
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, onchip_kernel,
                                                          args.plan.threads, bytes);
  }
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const std::int64_t most = std::int64_t{processors} * std::max(resident, 1);
  const auto blocks = static_cast<unsigned int>(std::min<std::int64_t>(args.images, most));
  const auto threads = static_cast<unsigned int>(args.plan.threads);
  onchip_kernel<<<blocks, threads, bytes, static_cast<cudaStream_t>(stream)>>>(args);
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext::onchip
