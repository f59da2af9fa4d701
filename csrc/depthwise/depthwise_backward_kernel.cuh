// The CUDA kernels of depthwise_backward (contract, bytes and floor: depthwise_backward.h) and the
// selection of their launch. There are no torch headers and no runtime calls here: nvcc compiles
// this source for the device, and the host compiler compiles the same source for csrc/tests.
//
// Launch shape and memory access are those of depthwise_kernel.cuh: a thread owns 8 adjacent
// channels of up to 4 adjacent pixels of a row of out. It gathers: it loads every column of g that
// affects these pixels once, with its mask byte, and adds it under each tap that leads to one of
// them. At stride 2 a row or column of out uses only the taps of its own parity. These are known at
// compile time, because tiles start at even places. No two threads add to the same element, so
// there are no atomics and every run gives the same result.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/device.cuh"
#include "common/pack.cuh"
#include "depthwise/depthwise_backward.h"
#include "depthwise/depthwise_kernel.cuh"

namespace sign_ext {

// Loads 8 channels of g, pulled back through the activation.
template <bool kWide, typename T>
__device__ __forceinline__ void depthwise_load_cotangent(const DepthwiseBackwardArgs& args,
                                                         const T* g, std::int64_t pixel,
                                                         std::int64_t channel, int count,
                                                         float (&values)[8]) {
  load_group<kWide>(g + pixel * args.sizes.channels + channel, count, values);
  if (args.mask == nullptr) return;
  const unsigned int bits = args.mask[pixel * mask_row_bytes(args.sizes.channels) + channel / 8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = pull_back(values[i], (bits >> i & 1u) != 0, args.slope);
  }
}

// Adds the other consumer's cotangent, pulls back through x's activation and stores one pixel's
// channels.
template <bool kWide, typename T>
__device__ __forceinline__ void depthwise_backward_finish(const DepthwiseBackwardArgs& args,
                                                          std::int64_t pixel, std::int64_t channel,
                                                          int count, float (&values)[8]) {
  const std::int64_t element = pixel * args.sizes.channels + channel;
  if (args.other != nullptr) {
    float others[8];
    load_group<kWide>(static_cast<const T*>(args.other) + element, count, others);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] += others[i];
  }
  if (args.x_mask != nullptr) {
    const unsigned int bits =
        args.x_mask[pixel * mask_row_bytes(args.sizes.channels) + channel / 8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] = pull_back(values[i], (bits >> i & 1u) != 0, args.x_slope);
    }
  }
  store_group<kWide>(static_cast<T*>(args.out) + element, count, values);
}

// Square kernels without dilation. With x + pad_left the place of pixel x, `tile` counts from the
// last multiple of the stride that is not past place pad_left.
template <typename T, int kSide, int kStride, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks<kSide, kWide>)
    depthwise_backward_kernel(const T* __restrict__ g, const float* __restrict__ weight,
                              DepthwiseBackwardArgs args, std::int64_t tiles) {
  constexpr int kPixels = 4;
  constexpr int kLead = (kSide - 1) / kStride;
  constexpr int kColumns = kLead + kPixels / kStride;
  const DepthwiseSizes& s = args.sizes;
  const DepthwisePlace place = depthwise_place(s.channels, tiles);
  if (place.count == 0) return;
  const std::int64_t first = s.pad_left / kStride * kStride + place.tile * kPixels;
  const std::int64_t left = first / kStride - kLead;
  for (std::int64_t row = place.row; row < s.n * s.height; row += place.rows_apart) {
    const std::int64_t n = row / s.height;
    const std::int64_t down = row - n * s.height + s.pad_top;
    float sums[kPixels][8] = {};
#pragma unroll 1
    for (int a = 0; a < kSide; ++a) {
      const std::int64_t ahead = down - a;
      if (ahead < 0 || ahead % kStride != 0 || ahead / kStride >= s.out_height) continue;
      const float* taps = weight + a * kSide * s.channels + place.channel;
      float weights[kSide][8];
#pragma unroll
      for (int b = 0; b < kSide; ++b) {
        load_group<kWide>(taps + b * s.channels, place.count, weights[b]);
      }
      const std::int64_t pixel = (n * s.out_height + ahead / kStride) * s.out_width + left;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        float values[8] = {};
        if (left + j >= 0 && left + j < s.out_width) {
          depthwise_load_cotangent<kWide>(args, g, pixel + j, place.channel, place.count, values);
        }
#pragma unroll
        for (int b = 0; b < kSide; ++b) {
          const int t = kStride * (j - kLead) + b;  // the pixel that column j reaches through tap b
          if (t < 0 || t >= kPixels) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[t][i] += values[i] * weights[b][i];
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kPixels; ++t) {
      const std::int64_t x = first + t - s.pad_left;
      if (x < 0 || x >= s.width) continue;
      depthwise_backward_finish<kWide, T>(args, row * s.width + x, place.channel, place.count,
                                          sums[t]);
    }
  }
}

// Any kernel: a thread owns one pixel.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise_backward_any_kernel(const T* __restrict__ g, const float* __restrict__ weight,
                                  DepthwiseBackwardArgs args, std::int64_t tiles) {
  const DepthwiseSizes& s = args.sizes;
  const DepthwisePlace place = depthwise_place(s.channels, tiles);
  if (place.count == 0) return;
  for (std::int64_t row = place.row; row < s.n * s.height; row += place.rows_apart) {
    const std::int64_t n = row / s.height;
    const std::int64_t down = row - n * s.height + s.pad_top;
    float sums[8] = {};
    for (std::int64_t a = 0; a < s.kernel_h; ++a) {
      const std::int64_t ahead = down - a * s.dilation_h;
      if (ahead < 0) break;
      if (ahead % s.stride_h != 0 || ahead / s.stride_h >= s.out_height) continue;
      for (std::int64_t b = 0; b < s.kernel_w; ++b) {
        const std::int64_t across = place.tile + s.pad_left - b * s.dilation_w;
        if (across < 0) break;
        if (across % s.stride_w != 0 || across / s.stride_w >= s.out_width) continue;
        const std::int64_t pixel =
            (n * s.out_height + ahead / s.stride_h) * s.out_width + across / s.stride_w;
        float values[8], weights[8];
        depthwise_load_cotangent<kWide>(args, g, pixel, place.channel, place.count, values);
        load_group<kWide>(weight + (a * s.kernel_w + b) * s.channels + place.channel, place.count,
                          weights);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] += values[i] * weights[i];
      }
    }
    depthwise_backward_finish<kWide, T>(args, row * s.width + place.tile, place.channel,
                                        place.count, sums);
  }
}

// Calls launch(kernel, g, tiles) with the instantiation that fits the arguments. The launcher in
// the .cu file and the host tests both select through this.
template <typename T, bool kWide, typename Launch>
void depthwise_backward_choose_kernel(const DepthwiseBackwardArgs& args, Launch&& launch) {
  const auto* g = static_cast<const T*>(args.g);
  const DepthwiseSizes& s = args.sizes;
  const bool two = s.stride_w == 2;
  const std::int64_t places = s.width + (two ? s.pad_left % 2 : 0);
  const std::int64_t tiles = (places + 3) / 4;
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
      return launch(&depthwise_backward_any_kernel<T, kWide>, g, s.width);
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

}  // namespace sign_ext
