// The CUDA kernels of depthwise_backward (contract, bytes and floor: depthwise_backward.h) and the
// selection of their launch. There are no torch headers and no runtime calls here: nvcc compiles
// this source for the device, and the host compiler compiles the same source for csrc/tests.
//
// Places, launches and memory access are those of depthwise_kernel.cuh: a thread owns 8 adjacent
// channels of up to 4 adjacent pixels of a row of out. It gathers: it loads every column of g that
// affects these pixels once, with its mask byte, and adds it under each tap that leads to one of
// them. At stride 2 a row or column of out uses only the taps of its own parity. These are known at
// compile time, because tiles start at even places. No two threads add to the same element, so
// there are no atomics and every run gives the same result.

#pragma once

#include <cstdint>

#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "common/divisor.cuh"
#include "common/pack.cuh"
#include "depthwise/depthwise_backward.h"
#include "depthwise/depthwise_launches.cuh"

namespace sign_ext {

// Pixels per thread of the kernels for square convolutions.
constexpr int kDepthwiseBackwardPixels = 4;

// Blocks per multiprocessor to compile for. The columns of g, their bits and the sums of a 3x3
// convolution of stride 1 need more registers than 4 blocks leave.
template <int kSide, int kStride, bool kWide>
inline constexpr int kDepthwiseBackwardBlocks =
    kSide == 3 && kStride == 1 ? 3 : kDepthwiseBlocks<kSide, kWide>;

// Pulls 8 channels back through the activation that wrote their mask byte.
__device__ __forceinline__ void depthwise_pull_back(unsigned int bits, float slope,
                                                    float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = pull_back(values[i], (bits >> i & 1u) != 0, slope);
}

// A pixel's mask byte; all ones where the pixel is not `there` or there is no mask.
__device__ __forceinline__ unsigned int depthwise_bits(const std::uint8_t* mask,
                                                       const DepthwisePlace& place,
                                                       std::uint32_t pixel, bool there) {
  return there && mask != nullptr ? mask[pixel * place.groups + place.group] : 0xffu;
}

// The sums of kPixels pixels of out: adds the other consumer's cotangent, pulls back through x's
// activation and stores. `x` is the first one's column, which may lie outside the image, and `line`
// the index of the row's first pixel. All loads are issued first, so that they are in flight
// together.
template <bool kWide, typename T, int kPixels>
__device__ __forceinline__ void depthwise_backward_finish(const DepthwiseBackwardArgs& args,
                                                          const DepthwisePlace& place, int x,
                                                          std::uint32_t line,
                                                          float (&sums)[kPixels][8]) {
  const auto* const other = static_cast<const T*>(args.other);
  auto* const out = static_cast<T*>(args.out);
  const int width = static_cast<int>(args.sizes.width);
  const std::uint32_t first = line + static_cast<std::uint32_t>(x);
  float others[kPixels][8];
  unsigned int bits[kPixels];
#pragma unroll
  for (int t = 0; t < kPixels; ++t) {
    const bool there = depthwise_inside(x + t, width);
    const std::uint32_t element = (first + t) * place.channels + place.channel;
    load_group_or<kWide>(kNoShift, there ? other : nullptr, element, place.count, others[t]);
    bits[t] = depthwise_bits(args.x_mask, place, first + t, there);
  }
#pragma unroll
  for (int t = 0; t < kPixels; ++t) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[t][i] += others[t][i];
  }
  if (args.x_mask != nullptr) {
#pragma unroll
    for (int t = 0; t < kPixels; ++t) depthwise_pull_back(bits[t], args.x_slope, sums[t]);
  }
#pragma unroll
  for (int t = 0; t < kPixels; ++t) {
    if (!depthwise_inside(x + t, width)) continue;
    const std::uint32_t element = (first + t) * place.channels + place.channel;
    store_group<kWide>(out + element, place.count, sums[t]);
  }
}

// Square kernels without dilation. With x + pad_left the place of pixel x, `tile` counts from the
// last multiple of the stride that is not past place pad_left.
template <typename T, int kSide, int kStride, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads,
                                  kDepthwiseBackwardBlocks<kSide, kStride, kWide>)
    depthwise_backward_kernel(const T* __restrict__ g, const float* __restrict__ weight,
                              DepthwiseBackwardArgs args, DepthwiseGrid grid) {
  constexpr int kPixels = kDepthwiseBackwardPixels;
  constexpr int kLead = (kSide - 1) / kStride;
  constexpr int kColumns = kLead + kPixels / kStride;
  const DepthwisePlace place = depthwise_place<kWide>(grid);
  if (place.count == 0) return;
  const auto [out_height, out_width] = depthwise_plane(args.sizes.out_height, args.sizes.out_width);
  const auto [pad_top, pad_left] = depthwise_plane(args.sizes.pad_top, args.sizes.pad_left);
  // Pads are not negative: unsigned, so that dividing by the stride is one shift.
  const int first = static_cast<int>(static_cast<unsigned int>(pad_left) / kStride) * kStride +
                    place.tile * kPixels;
  const int left = static_cast<int>(static_cast<unsigned int>(first) / kStride) - kLead;
  const int down = place.row + pad_top;
  float sums[kPixels][8] = {};
  // The taps of the row's parity whose row of g exists: down - a = kStride * row, row in g.
  int begin = down - kStride * (out_height - 1);
  begin = begin > 0 ? begin : down % kStride;
  const int end = down + 1 < kSide ? down + 1 : kSide;
  const int row = static_cast<int>(static_cast<unsigned int>(down - begin) / kStride);
  std::uint32_t line =
      (place.image * static_cast<std::uint32_t>(out_height) + static_cast<std::uint32_t>(row)) *
          static_cast<std::uint32_t>(out_width) +
      static_cast<std::uint32_t>(left);
  std::uint32_t tap = static_cast<std::uint32_t>(begin) * kSide * place.channels + place.channel;
#pragma unroll 1
  for (int a = begin; a < end; a += kStride) {
    float weights[kSide][8];
#pragma unroll
    for (int b = 0; b < kSide; ++b) {
      load_group<kWide>(weight + (tap + b * place.channels), place.count, weights[b]);
    }
    float values[kColumns][8];
    unsigned int bits[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const bool there = depthwise_inside(left + j, out_width);
      const std::uint32_t pixel = line + j;
      load_group_or<kWide>(0.0f, there ? g : nullptr, pixel * place.channels + place.channel,
                           place.count, values[j]);
      bits[j] = depthwise_bits(args.mask, place, pixel, there);
    }
    if (args.mask != nullptr) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) depthwise_pull_back(bits[j], args.slope, values[j]);
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int b = 0; b < kSide; ++b) {
        const int t = kStride * (j - kLead) + b;  // the pixel that column j reaches through tap b
        if (t < 0 || t >= kPixels) continue;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[t][i] += values[j][i] * weights[b][i];
      }
    }
    line -= static_cast<std::uint32_t>(out_width);
    tap += kStride * kSide * place.channels;
  }
  depthwise_backward_finish<kWide, T>(args, place, first - pad_left,
                                      place.line * static_cast<std::uint32_t>(args.sizes.width),
                                      sums);
}

// How the strides of any kernel divide.
struct DepthwiseStrides {
  Divisor h, w;
};

// Any kernel: a thread owns one pixel.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise_backward_any_kernel(const T* __restrict__ g, const float* __restrict__ weight,
                                  DepthwiseBackwardArgs args, DepthwiseGrid grid,
                                  DepthwiseStrides strides) {
  const DepthwisePlace place = depthwise_place<kWide>(grid);
  if (place.count == 0) return;
  const auto [out_height, out_width] = depthwise_plane(args.sizes.out_height, args.sizes.out_width);
  const auto [kernel_h, kernel_w] = depthwise_plane(args.sizes.kernel_h, args.sizes.kernel_w);
  const auto [step_h, step_w] = depthwise_plane(args.sizes.dilation_h, args.sizes.dilation_w);
  float sums[1][8] = {};
  int ahead = place.row + static_cast<int>(args.sizes.pad_top);
#pragma unroll 1
  for (int a = 0; a < kernel_h && ahead >= 0; ++a, ahead -= step_h) {
    const std::uint32_t row = divide(static_cast<std::uint32_t>(ahead), strides.h);
    if (rest(static_cast<std::uint32_t>(ahead), row, strides.h) != 0) continue;
    if (!depthwise_inside(static_cast<int>(row), out_height)) continue;
    const std::uint32_t line = (place.image * static_cast<std::uint32_t>(out_height) + row) *
                               static_cast<std::uint32_t>(out_width);
    std::uint32_t tap = static_cast<std::uint32_t>(a * kernel_w) * place.channels + place.channel;
    int across = place.tile + static_cast<int>(args.sizes.pad_left);
#pragma unroll 1
    for (int b = 0; b < kernel_w && across >= 0; ++b, across -= step_w, tap += place.channels) {
      const std::uint32_t column = divide(static_cast<std::uint32_t>(across), strides.w);
      if (rest(static_cast<std::uint32_t>(across), column, strides.w) != 0) continue;
      if (!depthwise_inside(static_cast<int>(column), out_width)) continue;
      float values[8], weights[8];
      load_group<kWide>(g + ((line + column) * place.channels + place.channel), place.count,
                        values);
      depthwise_pull_back(depthwise_bits(args.mask, place, line + column, true), args.slope,
                          values);
      load_group<kWide>(weight + tap, place.count, weights);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[0][i] += values[i] * weights[i];
    }
  }
  depthwise_backward_finish<kWide, T>(
      args, place, place.tile, place.line * static_cast<std::uint32_t>(args.sizes.width), sums);
}

// Calls launch(kernel, g, tiles, more arguments...) with the instantiation that fits the arguments.
template <typename T, bool kWide, typename Launch>
void depthwise_backward_choose_kernel(const DepthwiseBackwardArgs& args, Launch&& launch) {
  const auto* g = static_cast<const T*>(args.g);
  const DepthwiseSizes& s = args.sizes;
  const bool two = s.stride_w == 2;
  const std::int64_t places = s.width + (two ? s.pad_left % 2 : 0);
  const std::int64_t tiles = (places + kDepthwiseBackwardPixels - 1) / kDepthwiseBackwardPixels;
  switch (depthwise_side(s)) {
    case 3:
      return two ? launch(&depthwise_backward_kernel<T, 3, 2, kWide>, g, tiles)
                 : launch(&depthwise_backward_kernel<T, 3, 1, kWide>, g, tiles);
    case 5:
      return two ? launch(&depthwise_backward_kernel<T, 5, 2, kWide>, g, tiles)
                 : launch(&depthwise_backward_kernel<T, 5, 1, kWide>, g, tiles);
    case 7:
      return two ? launch(&depthwise_backward_kernel<T, 7, 2, kWide>, g, tiles)
                 : launch(&depthwise_backward_kernel<T, 7, 1, kWide>, g, tiles);
    default:
      return launch(&depthwise_backward_any_kernel<T, kWide>, g, s.width,
                    DepthwiseStrides{divisor_of(s.stride_h), divisor_of(s.stride_w)});
  }
}

template <typename T, typename Launch>
void depthwise_backward_choose_width(const DepthwiseBackwardArgs& args, Launch&& launch) {
  const bool wide = args.sizes.channels % 8 == 0 && on_16_bytes(args.g) &&
                    on_16_bytes(args.weight) && on_16_bytes(args.other) && on_16_bytes(args.out);
  if (wide) {
    depthwise_backward_choose_kernel<T, true>(args, launch);
  } else {
    depthwise_backward_choose_kernel<T, false>(args, launch);
  }
}

template <typename Launch>
void depthwise_backward_choose(const DepthwiseBackwardArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) {
    depthwise_backward_choose_width<float>(args, launch);
  } else {
    depthwise_backward_choose_width<__nv_bfloat16>(args, launch);
  }
}

// Calls launch(blocks, kernel, its arguments...) for each launch, in which neither g nor out has
// more than `most` elements. Returns null, or why that is not possible. The launcher in the .cu
// file and the host tests both launch through this.
template <typename Launch>
const char* depthwise_backward_for_each_launch(const DepthwiseBackwardArgs& args, std::int64_t most,
                                               Launch&& launch) {
  const DepthwiseSizes& s = args.sizes;
  if (s.n * s.height * s.width * s.channels == 0) return nullptr;
  const auto part = [&](std::int64_t first, std::int64_t images) {
    const std::int64_t g_pixel = first * s.out_height * s.out_width;
    const std::int64_t pixel = first * s.height * s.width;
    DepthwiseBackwardArgs a = args;
    a.sizes.n = images;
    a.g = advanced(args.g, args.type, g_pixel * s.channels);
    a.mask = advanced(args.mask, g_pixel * mask_row_bytes(s.channels));
    a.other = advanced(args.other, args.type, pixel * s.channels);
    a.out = advanced(args.out, args.type, pixel * s.channels);
    a.x_mask = advanced(args.x_mask, pixel * mask_row_bytes(s.channels));
    depthwise_backward_choose(a, [&](auto kernel, auto g, std::int64_t tiles, auto... more) {
      const DepthwiseGrid grid = depthwise_grid(images, s.channels, s.height, tiles);
      launch(depthwise_blocks(grid), kernel, g, a.weight, a, grid, more...);
    });
  };
  return depthwise_for_each_part(s, most, part);
}

}  // namespace sign_ext
