// Launches the CUDA kernels. It includes only plain CUDA headers, so nvcc compiles it in seconds.

#include "gate/gate_kernel.cuh"

namespace sign_ext {
namespace {

const char* text_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* position_sums_cuda(const PositionSumsArgs& args, void* stream) {
  const auto blocks = static_cast<unsigned int>(position_sums_blocks(args));
  if (blocks == 0) return nullptr;
  position_sums_choose(args, [&](auto kernel, auto x, auto y) {
    kernel<<<blocks, kSumLanes * kSumSlices, 0, static_cast<cudaStream_t>(stream)>>>(
        x, y, args.out, args.positions, args.channels, args.factor);
  });
  return text_of(cudaGetLastError());
}

const char* gate_cuda(const GateArgs& args, void* stream) {
  const std::int64_t rows = args.images * args.positions;
  const auto blocks = static_cast<unsigned int>(group_blocks(rows, args.channels));
  if (blocks == 0) return nullptr;
  gate_choose(args, [&](auto kernel, auto x, auto out) {
    kernel<<<blocks, kGroupThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        x, out, args.scale, args.shift, rows, args.positions, args.channels);
  });
  return text_of(cudaGetLastError());
}

}  // namespace sign_ext
