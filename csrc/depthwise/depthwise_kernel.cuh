// The CUDA kernels of depthwise (contract, bytes and floor: depthwise.h) and the selection of their
// launch. There are no torch headers and no runtime calls here: nvcc compiles this source for the
// device, and the host compiler compiles the same source for csrc/tests.
//
// A thread owns 8 adjacent channels, and so one byte of the mask, of up to 4 adjacent pixels of a
// row of out. Adjacent threads own adjacent channels: a warp reads and writes full lines, 16 bytes
// per thread (twice that for float32), if channels are a multiple of 8 and 16-byte aligned, and
// single elements otherwise. A column of x is loaded once for all of the thread's pixels. Rows and
// columns that threads share come from L1 and L2, so x is read from memory about once and out is
// written once. Weights are read through L1 and kept in registers for one kernel row.
//
// Where a thread and its elements are is 32-bit arithmetic without a division
// (depthwise_launches.cuh), and the activation's kind is a template parameter.

#pragma once

#include <cstdint>

#include "common/activation_kind.cuh"
#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "common/pack.cuh"
#include "depthwise/depthwise.h"
#include "depthwise/depthwise_launches.cuh"

namespace sign_ext {

// Pixels per thread: at stride 2 there are not enough registers for 4.
template <int kStride>
inline constexpr int kDepthwisePixels = kStride == 1 ? 4 : 2;

// Activates one pixel's channels, stores them and writes their mask byte. `pixel` is out's.
template <ActivationKind kKind, bool kWide, typename T>
__device__ __forceinline__ void depthwise_finish(const DepthwiseArgs& args, T* out,
                                                 const DepthwisePlace& place, std::uint32_t pixel,
                                                 float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = activate<kKind>(values[i], args.activation);
  const Eight<T> stored = narrow_8<T>(values);
  store_group<kWide>(out + pixel * place.channels + place.channel, place.count, stored);
  if (args.mask == nullptr) return;
  widen_8(stored, values);
  args.mask[pixel * place.groups + place.group] =
      mask_byte<kKind>(values, place.count, args.activation);
}

// Square kernels without dilation.
template <typename T, ActivationKind kKind, int kSide, int kStride, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks<kSide, kWide>)
    depthwise_kernel(const T* __restrict__ x, const float* __restrict__ weight, T* __restrict__ out,
                     DepthwiseArgs args, DepthwiseGrid grid) {
  constexpr int kPixels = kDepthwisePixels<kStride>;
  constexpr int kColumns = kStride * (kPixels - 1) + kSide;
  const DepthwisePlace place = depthwise_place<kWide>(grid);
  if (place.count == 0) return;
  const auto [height, width] = depthwise_plane(args.sizes.height, args.sizes.width);
  const int first = place.tile * kPixels;
  const int left = first * kStride - static_cast<int>(args.sizes.pad_left);
  const int top = place.row * kStride - static_cast<int>(args.sizes.pad_top);
  float sums[kPixels][8];
  load_group_or<kWide>(0.0f, args.bias, place.channel, place.count, sums[0]);
#pragma unroll
  for (int t = 1; t < kPixels; ++t) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[t][i] = sums[0][i];
  }
  // The taps whose row is in the image.
  const int begin = top < 0 ? -top : 0;
  const int end = height - top < kSide ? height - top : kSide;
  // Of x and of the weights: the element of the window's first column and tap in row `begin`.
  std::uint32_t at = depthwise_element(place, height, width, top + begin, left);
  std::uint32_t tap = static_cast<std::uint32_t>(begin) * kSide * place.channels + place.channel;
#pragma unroll 1
  for (int a = begin; a < end; ++a) {
    float weights[kSide][8];
#pragma unroll
    for (int b = 0; b < kSide; ++b) {
      load_group<kWide>(weight + (tap + b * place.channels), place.count, weights[b]);
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float values[8] = {};
      if (depthwise_inside(left + j, width)) {
        load_group<kWide>(x + (at + j * place.channels), place.count, values);
      }
#pragma unroll
      for (int b = 0; b < kSide; ++b) {
        const int ahead = j - b;  // column j lies under tap b of pixel ahead / kStride
        if (ahead < 0 || ahead % kStride != 0 || ahead / kStride >= kPixels) continue;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[ahead / kStride][i] += values[i] * weights[b][i];
      }
    }
    at += static_cast<std::uint32_t>(width) * place.channels;
    tap += kSide * place.channels;
  }
  const int out_width = static_cast<int>(args.sizes.out_width);
  const std::uint32_t pixel =
      place.line * static_cast<std::uint32_t>(out_width) + static_cast<std::uint32_t>(first);
#pragma unroll
  for (int t = 0; t < kPixels; ++t) {
    if (first + t >= out_width) break;
    depthwise_finish<kKind, kWide>(args, out, place, pixel + t, sums[t]);
  }
}

// Any kernel: a thread owns one pixel.
template <typename T, ActivationKind kKind, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise_any_kernel(const T* __restrict__ x, const float* __restrict__ weight,
                         T* __restrict__ out, DepthwiseArgs args, DepthwiseGrid grid) {
  const DepthwisePlace place = depthwise_place<kWide>(grid);
  if (place.count == 0) return;
  const auto [height, width] = depthwise_plane(args.sizes.height, args.sizes.width);
  const auto [kernel_h, kernel_w] = depthwise_plane(args.sizes.kernel_h, args.sizes.kernel_w);
  const auto [down, across] = depthwise_plane(args.sizes.dilation_h, args.sizes.dilation_w);
  const int left =
      place.tile * static_cast<int>(args.sizes.stride_w) - static_cast<int>(args.sizes.pad_left);
  const int top =
      place.row * static_cast<int>(args.sizes.stride_h) - static_cast<int>(args.sizes.pad_top);
  float sums[8];
  load_group_or<kWide>(0.0f, args.bias, place.channel, place.count, sums);
#pragma unroll 1
  for (int a = 0; a < kernel_h; ++a) {
    const int in_y = top + a * down;
    if (!depthwise_inside(in_y, height)) continue;
    std::uint32_t at = depthwise_element(place, height, width, in_y, left);
    std::uint32_t tap = static_cast<std::uint32_t>(a * kernel_w) * place.channels + place.channel;
#pragma unroll 2
    for (int b = 0; b < kernel_w; ++b) {
      if (depthwise_inside(left + b * across, width)) {
        float values[8], weights[8];
        load_group<kWide>(x + at, place.count, values);
        load_group<kWide>(weight + tap, place.count, weights);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] += values[i] * weights[i];
      }
      at += static_cast<std::uint32_t>(across) * place.channels;
      tap += place.channels;
    }
  }
  const std::uint32_t pixel = place.line * static_cast<std::uint32_t>(args.sizes.out_width) +
                              static_cast<std::uint32_t>(place.tile);
  depthwise_finish<kKind, kWide>(args, out, place, pixel, sums);
}

// Calls launch(kernel, x, out, pixels) with the instantiation that fits the arguments and how many
// pixels a thread takes.
template <typename T, ActivationKind kKind, bool kWide, typename Launch>
void depthwise_choose_kernel(const DepthwiseArgs& args, Launch&& launch) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  const bool two = args.sizes.stride_w == 2;
  const int pixels = two ? kDepthwisePixels<2> : kDepthwisePixels<1>;
  switch (depthwise_side(args.sizes)) {
    case 3:
      return two ? launch(&depthwise_kernel<T, kKind, 3, 2, kWide>, x, out, pixels)
                 : launch(&depthwise_kernel<T, kKind, 3, 1, kWide>, x, out, pixels);
    case 5:
      return two ? launch(&depthwise_kernel<T, kKind, 5, 2, kWide>, x, out, pixels)
                 : launch(&depthwise_kernel<T, kKind, 5, 1, kWide>, x, out, pixels);
    case 7:
      return two ? launch(&depthwise_kernel<T, kKind, 7, 2, kWide>, x, out, pixels)
                 : launch(&depthwise_kernel<T, kKind, 7, 1, kWide>, x, out, pixels);
    default:
      return launch(&depthwise_any_kernel<T, kKind, kWide>, x, out, 1);
  }
}

template <typename T, typename Launch>
void depthwise_choose_width(const DepthwiseArgs& args, Launch&& launch) {
  const bool wide = args.sizes.channels % 8 == 0 && on_16_bytes(args.x) && on_16_bytes(args.out) &&
                    on_16_bytes(args.weight) && on_16_bytes(args.bias);
  with_activation_kind(args.activation, [&](auto kind) {
    constexpr ActivationKind kKind = decltype(kind)::value;
    if (wide) {
      depthwise_choose_kernel<T, kKind, true>(args, launch);
    } else {
      depthwise_choose_kernel<T, kKind, false>(args, launch);
    }
  });
}

template <typename Launch>
void depthwise_choose(const DepthwiseArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) {
    depthwise_choose_width<float>(args, launch);
  } else {
    depthwise_choose_width<__nv_bfloat16>(args, launch);
  }
}

// Calls launch(blocks, kernel, its arguments...) for each launch, in which neither x nor out has
// more than `most` elements. Returns null, or why that is not possible. The launcher in the .cu
// file and the host tests both launch through this.
template <typename Launch>
const char* depthwise_for_each_launch(const DepthwiseArgs& args, std::int64_t most,
                                      Launch&& launch) {
  const DepthwiseSizes& s = args.sizes;
  if (s.n * s.out_height * s.out_width * s.channels == 0) return nullptr;
  const auto part = [&](std::int64_t first, std::int64_t images) {
    const std::int64_t pixel = first * s.out_height * s.out_width;
    DepthwiseArgs a = args;
    a.sizes.n = images;
    a.x = advanced(args.x, args.type, first * s.height * s.width * s.channels);
    a.out = advanced(args.out, args.type, pixel * s.channels);
    a.mask = advanced(args.mask, pixel * mask_row_bytes(s.channels));
    depthwise_choose(a, [&](auto kernel, auto x, auto out, int pixels) {
      const std::int64_t tiles = (s.out_width + pixels - 1) / pixels;
      const DepthwiseGrid grid = depthwise_grid(images, s.channels, s.out_height, tiles);
      launch(depthwise_blocks(grid), kernel, x, a.weight, out, a, grid);
    });
  };
  return depthwise_for_each_part(s, most, part);
}

}  // namespace sign_ext
