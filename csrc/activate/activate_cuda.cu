// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "activate/activate_kernel.cuh"

namespace sign_ext {
namespace {

const char* text_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* activate_cuda(const ActivateArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(group_blocks(args.rows, args.channels));
  if (blocks == 0) return nullptr;
  activate_choose(args, [&](auto kernel, auto x, auto out, auto residual) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        x, out, args.scale, args.bias, residual, args.mask, args.rows, args.channels,
        args.activation);
  });
  return text_of(cudaGetLastError());
}

const char* pack_mask_cuda(const PackMaskArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(group_blocks(args.rows, args.channels));
  if (blocks == 0) return nullptr;
  pack_mask_choose(args, [&](auto kernel, auto y) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        y, args.mask, args.rows, args.channels, args.activation);
  });
  return text_of(cudaGetLastError());
}

}  // namespace sign_ext
