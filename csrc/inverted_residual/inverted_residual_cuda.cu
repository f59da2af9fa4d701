// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "inverted_residual/inverted_residual_kernel.cuh"

namespace sign_ext::block {

const char* run_cuda(const Args& args, void* stream) {
  if (args.sizes.images == 0) return nullptr;
  int device = 0;
  int processors = 0;
  int major = 0;
  int shared_limit = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  ask(processors, cudaDevAttrMultiProcessorCount);
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (major < 8) {
    return "the device has no bfloat16 or TF32 tensor cores, which need compute capability 8.0";
  }
  const Plan plan = plan_of(args.sizes, args.precision, shared_limit, processors);
  if (plan.images == 0) return "the block does not fit the device's shared memory";
  choose(args, plan, [&](auto kernel) {
    // Set to the device's limit, whatever this plan needs: the attribute belongs to the kernel, not
    // to the launch, and must not be lowered under larger plans launched by other threads or by
    // graphs.
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit);
    if (error != cudaSuccess) return;
    kernel<<<tiles_of(args.sizes, plan), kThreads, static_cast<std::size_t>(plan.shared_bytes),
             static_cast<cudaStream_t>(stream)>>>(args, plan);
    error = cudaGetLastError();
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext::block
