// The CUDA kernels of position_sums and gate (contract, bytes and floor: gate.h) and the selection
// of their launches. There are no torch headers and no runtime calls here: nvcc compiles this source
// for the device, and the host compiler compiles the same source for csrc/tests.
//
// position_sums: a block owns kSumLanes adjacent channels of one image. Each of its kSumSlices rows
// of threads adds every kSumSlices-th position; the rows' sums meet in shared memory and are added
// in a fixed order. Adjacent threads read adjacent channels.
//
// gate: as in channel_groups.cuh, a thread owns 8 adjacent channels of a position. It reads all of
// its elements before it writes any, so `out` may be x.

#pragma once

#include <cstdint>

#include "common/channel_groups.cuh"
#include "gate/gate.h"

namespace sign_ext {

constexpr int kSumLanes = 32;
constexpr int kSumSlices = 8;

template <typename T>
__global__ void __launch_bounds__(kSumLanes* kSumSlices)
    position_sums_kernel(const T* __restrict__ x, const T* __restrict__ y, float* __restrict__ out,
                         std::int64_t positions, std::int64_t channels, float factor) {
  __shared__ float sums[kSumSlices][kSumLanes];
  const int lane = static_cast<int>(threadIdx.x) % kSumLanes;
  const int slice = static_cast<int>(threadIdx.x) / kSumLanes;
  const std::int64_t parts = (channels + kSumLanes - 1) / kSumLanes;
  const std::int64_t image = blockIdx.x / parts;
  const std::int64_t channel = blockIdx.x % parts * kSumLanes + lane;
  float sum = 0.0f;
  if (channel < channels) {
    for (std::int64_t position = slice; position < positions; position += kSumSlices) {
      const std::int64_t at = (image * positions + position) * channels + channel;
      const float value = widen(x[at]);
      sum += y != nullptr ? value * widen(y[at]) : value;
    }
  }
  sums[slice][lane] = sum;
  __syncthreads();
  if (slice == 0 && channel < channels) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kSumSlices; ++i) total += sums[i][lane];
    out[image * channels + channel] = factor * total;
  }
}

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    gate_kernel(const T* x, T* out, const float* __restrict__ scale,
                const float* __restrict__ shift, std::int64_t rows, std::int64_t positions,
                std::int64_t channels) {
  for (ChannelGroups groups(rows, channels); groups.has_one(); groups.next()) {
    const std::int64_t element = groups.element();
    const int count = groups.count();
    const std::int64_t row = (element - groups.channel()) / channels;
    const std::int64_t constant = row / positions * channels + groups.channel();
    float v[8];
    float factor[8];
    float more[8] = {};
    load_group<kWhole>(x + element, count, v);
    load_group<kWhole>(scale + constant, count, factor);
    if (shift != nullptr) load_group<kWhole>(shift + constant, count, more);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] * factor[i] + more[i];
    store_group<kWhole>(out + element, count, v);
  }
}

inline std::int64_t position_sums_blocks(const PositionSumsArgs& args) {
  return args.images * ((args.channels + kSumLanes - 1) / kSumLanes);
}

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
// The launchers in the .cu file and the host tests both select through these.
template <typename Launch>
void position_sums_choose(const PositionSumsArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    launch(&position_sums_kernel<__nv_bfloat16>, static_cast<const __nv_bfloat16*>(args.x),
           static_cast<const __nv_bfloat16*>(args.y));
  } else {
    launch(&position_sums_kernel<float>, static_cast<const float*>(args.x),
           static_cast<const float*>(args.y));
  }
}

template <typename T, typename Launch>
void gate_choose_width(const GateArgs& args, Launch&& launch) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  if (args.channels % 8 == 0 && on_16_bytes(x) && on_16_bytes(out) && on_16_bytes(args.scale) &&
      on_16_bytes(args.shift)) {
    launch(&gate_kernel<T, true>, x, out);
  } else {
    launch(&gate_kernel<T, false>, x, out);
  }
}

template <typename Launch>
void gate_choose(const GateArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    gate_choose_width<__nv_bfloat16>(args, launch);
  } else {
    gate_choose_width<float>(args, launch);
  }
}

}  // namespace sign_ext
