// The CUDA kernels of position_sums and gate (contract, bytes and floor: gate.h) and the selection
// of their launches. There are no torch headers and no runtime calls here: nvcc compiles this
// source for the device, and the host compiler compiles the same source for csrc/tests.
//
// position_sums: a block owns kSumLanes adjacent channels of one image. Each of its kSumSlices rows
// of threads adds every kSumSlices-th position; the rows' sums meet in shared memory and are added
// in a fixed order. Adjacent threads read adjacent channels.
//
// gate: as in channel_groups.cuh, a thread owns 8 adjacent channels of a position. It reads all of
// its elements before it writes any, so `out` may be x.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/channel_groups.cuh"
#include "gate/gate.h"

namespace sign_ext {

constexpr int kSumLanes = 32;
constexpr int kSumSlices = 8;

// What a launch of position_sums covers: a block for each part of kSumLanes channels of an image.
struct SumGrid {
  Divisor parts;  // of an image
  std::uint32_t blocks;
};

template <typename T>
__global__ void __launch_bounds__(kSumLanes* kSumSlices)
    position_sums_kernel(const T* __restrict__ x, const T* __restrict__ y, float* __restrict__ out,
                         std::int64_t positions, std::int64_t channels, float factor,
                         SumGrid grid) {
  __shared__ float sums[kSumSlices][kSumLanes];
  const int lane = static_cast<int>(threadIdx.x) % kSumLanes;
  const int slice = static_cast<int>(threadIdx.x) / kSumLanes;
  const std::uint32_t image = divide(blockIdx.x, grid.parts);
  const std::uint32_t part = rest(blockIdx.x, image, grid.parts);
  const std::int64_t channel = std::int64_t{part} * kSumLanes + lane;
  float sum = 0.0f;
  if (channel < channels) {
    // The image may have more than 2^31 elements: a 64-bit offset, but stepped, not multiplied.
    std::int64_t at = (image * positions + slice) * channels + channel;
    const std::int64_t end = (image + std::int64_t{1}) * positions * channels;
    const std::int64_t step = kSumSlices * channels;
    if (y != nullptr) {
      for (; at < end; at += step) sum += widen(x[at]) * widen(y[at]);
    } else {
      for (; at < end; at += step) sum += widen(x[at]);
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

// A launch covers whole images, so a row's image is a quotient.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    gate_kernel(const T* x, T* out, const float* __restrict__ scale,
                const float* __restrict__ shift, GroupGrid grid, Divisor positions) {
  const Group group = this_group<kWhole>(grid);
  const int count = group.count;
  if (count == 0) return;
  const std::uint32_t constant = divide(group.row, positions) * grid.channels + group.channel;
  float v[8];
  float factor[8];
  float more[8];
  load_group<kWhole>(x + group.element, count, v);
  load_group<kWhole>(scale + constant, count, factor);
  load_group_or<kWhole>(kNoShift, shift, constant, count, more);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = v[i] * factor[i] + more[i];
  store_group<kWhole>(out + group.element, count, v);
}

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
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

// Calls launch(blocks, kernel, its arguments...) for each launch of at most `most` blocks. The
// launchers in the .cu file and the host tests both launch through this and the next.
template <typename Launch>
const char* position_sums_for_each_launch(const PositionSumsArgs& args, std::int64_t most,
                                          Launch&& launch) {
  if (args.images == 0 || args.channels == 0) return nullptr;
  const std::int64_t parts = (args.channels + kSumLanes - 1) / kSumLanes;
  const std::int64_t per_launch = most / parts;
  if (per_launch == 0) return "one image has 2^36 channels or more";
  for (std::int64_t first = 0; first < args.images; first += per_launch) {
    const std::int64_t images = std::min(per_launch, args.images - first);
    const std::int64_t element = first * args.positions * args.channels;
    const SumGrid grid{divisor_of(parts), static_cast<std::uint32_t>(images * parts)};
    PositionSumsArgs a = args;
    a.x = advanced(args.x, args.type, element);
    a.y = advanced(args.y, args.type, element);
    a.out = advanced(args.out, first * args.channels);
    position_sums_choose(a, [&](auto kernel, auto x, auto y) {
      launch(grid.blocks, kernel, x, y, a.out, a.positions, a.channels, a.factor, grid);
    });
  }
  return nullptr;
}

// The same of at most `most` elements. Returns null, or why that is not possible.
template <typename Launch>
const char* gate_for_each_launch(const GateArgs& args, std::int64_t most, Launch&& launch) {
  const auto part = [&](const GroupGrid& grid, unsigned int blocks, std::int64_t first) {
    const std::int64_t element = first * args.channels;
    const std::int64_t constant = first / args.positions * args.channels;
    GateArgs a = args;
    a.x = advanced(args.x, args.type, element);
    a.out = advanced(args.out, args.type, element);
    a.scale = advanced(args.scale, constant);
    a.shift = advanced(args.shift, constant);
    gate_choose(a, [&](auto kernel, auto x, auto out) {
      launch(blocks, kernel, x, out, a.scale, a.shift, grid, divisor_of(args.positions));
    });
  };
  return for_each_group_launch(args.images * args.positions, args.channels, args.positions, most,
                               part);
}

}  // namespace sign_ext
