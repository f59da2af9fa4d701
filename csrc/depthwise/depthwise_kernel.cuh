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

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "common/pack.cuh"
#include "depthwise/depthwise.h"

namespace sign_ext {

constexpr int kDepthwiseThreads = 128;

// Pixels per thread: at stride 2 there are not enough registers for 4.
template <int kStride>
inline constexpr int kDepthwisePixels = kStride == 1 ? 4 : 2;

// Blocks per multiprocessor to compile for: as many as there are registers for.
template <int kSide, bool kWide>
inline constexpr int kDepthwiseBlocks = kSide == 3   ? (kWide ? 4 : 3)
                                        : kSide == 5 ? 3
                                                     : 2;

// What a thread works on. In grid and block, x counts the groups of 8 channels of the tiles of a
// row, and y the rows.
struct DepthwisePlace {
  std::int64_t tile;
  std::int64_t channel;
  int count;  // how many of the 8 channels exist; 0: no work
  std::int64_t row;
  std::int64_t rows_apart;
};

__device__ __forceinline__ DepthwisePlace depthwise_place(std::int64_t channels,
                                                          std::int64_t tiles) {
  const std::int64_t groups = (channels + 7) / 8;
  const std::int64_t across = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  DepthwisePlace place;
  place.tile = across / groups;
  place.channel = across % groups * 8;
  const std::int64_t left = channels - place.channel;
  place.count = place.tile >= tiles ? 0 : left < 8 ? static_cast<int>(left) : 8;
  place.row = std::int64_t{blockIdx.y} * blockDim.y + threadIdx.y;
  place.rows_apart = std::int64_t{gridDim.y} * blockDim.y;
  return place;
}

// The launch for `tiles` tiles per row; see depthwise_place.
struct DepthwiseLaunch {
  dim3 grid;
  dim3 block;
};

inline DepthwiseLaunch depthwise_launch(std::int64_t channels, std::int64_t tiles,
                                        std::int64_t rows) {
  const std::int64_t across = (channels + 7) / 8 * tiles;
  std::int64_t x = 1;
  while (x < across && x < kDepthwiseThreads) x *= 2;
  const std::int64_t y = kDepthwiseThreads / x;
  const std::int64_t most = 65535;  // blocks in y; if there are more rows, threads take several
  DepthwiseLaunch launch;
  launch.grid = dim3(static_cast<unsigned int>((across + x - 1) / x),
                     static_cast<unsigned int>(std::min((rows + y - 1) / y, most)));
  launch.block = dim3(static_cast<unsigned int>(x), static_cast<unsigned int>(y));
  return launch;
}

// Activates one pixel's channels, stores them and writes their mask byte.
template <bool kWide, typename T>
__device__ __forceinline__ void depthwise_finish(const DepthwiseArgs& args, T* out,
                                                 std::int64_t pixel, std::int64_t channel,
                                                 int count, float (&values)[8]) {
  unsigned int bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = widen(narrow<T>(activate(values[i], args.activation)));
    if (i < count && passes(values[i], args.activation)) bits |= 1u << i;
  }
  store_group<kWide>(out + pixel * args.sizes.channels + channel, count, values);
  if (args.mask != nullptr) {
    args.mask[pixel * mask_row_bytes(args.sizes.channels) + channel / 8] =
        static_cast<std::uint8_t>(bits);
  }
}

template <bool kWide>
__device__ __forceinline__ void depthwise_bias(const DepthwiseArgs& args, std::int64_t channel,
                                               int count, float (&values)[8]) {
  if (args.bias != nullptr) return load_group<kWide>(args.bias + channel, count, values);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = 0.0f;
}

// Square kernels without dilation.
template <typename T, int kSide, int kStride, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks<kSide, kWide>)
    depthwise_kernel(const T* __restrict__ x, const float* __restrict__ weight, T* __restrict__ out,
                     DepthwiseArgs args) {
  constexpr int kPixels = kDepthwisePixels<kStride>;
  constexpr int kColumns = kStride * (kPixels - 1) + kSide;
  const DepthwiseSizes& s = args.sizes;
  const DepthwisePlace place = depthwise_place(s.channels, (s.out_width + kPixels - 1) / kPixels);
  if (place.count == 0) return;
  const std::int64_t first = place.tile * kPixels;
  const std::int64_t left = first * kStride - s.pad_left;
  for (std::int64_t row = place.row; row < s.n * s.out_height; row += place.rows_apart) {
    const std::int64_t n = row / s.out_height;
    const std::int64_t top = (row - n * s.out_height) * kStride - s.pad_top;
    float sums[kPixels][8];
    depthwise_bias<kWide>(args, place.channel, place.count, sums[0]);
#pragma unroll
    for (int t = 1; t < kPixels; ++t) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[t][i] = sums[0][i];
    }
#pragma unroll 1
    for (int a = 0; a < kSide; ++a) {
      if (top + a < 0 || top + a >= s.height) continue;
      const float* taps = weight + a * kSide * s.channels + place.channel;
      float weights[kSide][8];
#pragma unroll
      for (int b = 0; b < kSide; ++b) {
        load_group<kWide>(taps + b * s.channels, place.count, weights[b]);
      }
      const std::int64_t pixel = (n * s.height + top + a) * s.width + left;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        float values[8] = {};
        if (left + j >= 0 && left + j < s.width) {
          load_group<kWide>(x + (pixel + j) * s.channels + place.channel, place.count, values);
        }
#pragma unroll
        for (int b = 0; b < kSide; ++b) {
          const int ahead = j - b;  // column j lies under tap b of pixel ahead / kStride
          if (ahead < 0 || ahead % kStride != 0 || ahead / kStride >= kPixels) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[ahead / kStride][i] += values[i] * weights[b][i];
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kPixels; ++t) {
      if (first + t >= s.out_width) break;
      depthwise_finish<kWide>(args, out, row * s.out_width + first + t, place.channel, place.count,
                              sums[t]);
    }
  }
}

// Any kernel: a thread owns one pixel.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise_any_kernel(const T* __restrict__ x, const float* __restrict__ weight,
                         T* __restrict__ out, DepthwiseArgs args) {
  const DepthwiseSizes& s = args.sizes;
  const DepthwisePlace place = depthwise_place(s.channels, s.out_width);
  if (place.count == 0) return;
  const std::int64_t left = place.tile * s.stride_w - s.pad_left;
  for (std::int64_t row = place.row; row < s.n * s.out_height; row += place.rows_apart) {
    const std::int64_t n = row / s.out_height;
    const std::int64_t top = (row - n * s.out_height) * s.stride_h - s.pad_top;
    float sums[8];
    depthwise_bias<kWide>(args, place.channel, place.count, sums);
    for (std::int64_t a = 0; a < s.kernel_h; ++a) {
      const std::int64_t in_y = top + a * s.dilation_h;
      if (in_y < 0 || in_y >= s.height) continue;
      for (std::int64_t b = 0; b < s.kernel_w; ++b) {
        const std::int64_t in_x = left + b * s.dilation_w;
        if (in_x < 0 || in_x >= s.width) continue;
        const std::int64_t pixel = (n * s.height + in_y) * s.width + in_x;
        float values[8], weights[8];
        load_group<kWide>(x + pixel * s.channels + place.channel, place.count, values);
        load_group<kWide>(weight + (a * s.kernel_w + b) * s.channels + place.channel, place.count,
                          weights);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] += values[i] * weights[i];
      }
    }
    depthwise_finish<kWide>(args, out, row * s.out_width + place.tile, place.channel, place.count,
                            sums);
  }
}

// Calls launch(kernel, x, out, tiles) with the instantiation that fits the arguments. The launcher
// in the .cu file and the host tests both select through this.
template <typename T, bool kWide, typename Launch>
void depthwise_choose_kernel(const DepthwiseArgs& args, Launch&& launch) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  const std::int64_t width = args.sizes.out_width;
  const bool two = args.sizes.stride_w == 2;
  const int pixels = two ? kDepthwisePixels<2> : kDepthwisePixels<1>;
  const std::int64_t tiles = (width + pixels - 1) / pixels;
  switch (depthwise_side(args.sizes)) {
    case 3:
      return two ? launch(&depthwise_kernel<T, 3, 2, kWide>, x, out, tiles)
                 : launch(&depthwise_kernel<T, 3, 1, kWide>, x, out, tiles);
    case 5:
      return two ? launch(&depthwise_kernel<T, 5, 2, kWide>, x, out, tiles)
                 : launch(&depthwise_kernel<T, 5, 1, kWide>, x, out, tiles);
    case 7:
      return two ? launch(&depthwise_kernel<T, 7, 2, kWide>, x, out, tiles)
                 : launch(&depthwise_kernel<T, 7, 1, kWide>, x, out, tiles);
    default:
      return launch(&depthwise_any_kernel<T, kWide>, x, out, width);
  }
}

template <typename T, typename Launch>
void depthwise_choose_width(const DepthwiseArgs& args, Launch&& launch) {
  const bool wide = args.sizes.channels % 8 == 0 && on_16_bytes(args.x) && on_16_bytes(args.out) &&
                    on_16_bytes(args.weight) && on_16_bytes(args.bias);
  if (wide) {
    depthwise_choose_kernel<T, true>(args, launch);
  } else {
    depthwise_choose_kernel<T, false>(args, launch);
  }
}

template <typename Launch>
void depthwise_choose(const DepthwiseArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) {
    depthwise_choose_width<float>(args, launch);
  } else {
    depthwise_choose_width<__nv_bfloat16>(args, launch);
  }
}

}  // namespace sign_ext
