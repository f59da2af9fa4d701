// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "smooth/smooth_kernel.cuh"

namespace sign_ext {
namespace {

const char* text_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* smooth_cuda(const SmoothArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(smooth_blocks(args.count));
  if (blocks == 0) return nullptr;
  smooth_choose(args, [&](auto kernel, auto x, auto out) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        x, out, args.derivative, args.fraction, args.count);
  });
  return text_of(cudaGetLastError());
}

const char* smooth_backward_cuda(const SmoothBackwardArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(smooth_blocks(args.count));
  if (blocks == 0) return nullptr;
  smooth_backward_choose(args, [&](auto kernel, auto g, auto out, auto other) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        g, args.derivative, args.fraction, out, other, args.count);
  });
  return text_of(cudaGetLastError());
}

}  // namespace sign_ext
