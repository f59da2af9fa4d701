// The launcher of the CUDA kernel: plain CUDA headers, so that nvcc takes seconds.

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
  if (major < 8) return "the device has no matrix unit for bfloat16 (compute capability 8.0)";
  const auto bytes = static_cast<std::size_t>(args.plan.shared_bytes);
  if (args.plan.shared_bytes > shared_limit)
    return "the plan takes more shared memory than there is";
  // The most there is, whatever this plan takes: the attribute is the kernel's, not the launch's,
  // and other threads' launches and graphs of larger plans must not find it lowered.
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
