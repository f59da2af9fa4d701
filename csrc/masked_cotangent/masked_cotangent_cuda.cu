// Launches the CUDA kernel. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "masked_cotangent/masked_cotangent_kernel.cuh"

namespace sign_ext {

const char* masked_cotangent_cuda(const MaskedCotangentArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(group_blocks(args.rows, args.channels));
  if (blocks == 0) return nullptr;
  masked_cotangent_choose(args, [&](auto kernel, auto g, auto out, auto other) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        g, out, other, args.mask, args.scale, args.rows, args.channels, args.slope);
  });
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
