// The CUDA kernel of average_pool_backward (contract, bytes and floor: average_pool_backward.h) and
// the selection of its instantiation. There are no torch headers and no runtime calls here: nvcc
// compiles this source for the device, and the host compiler compiles the same source for
// csrc/tests.
//
// A thread owns 8 channels of one position of the input (common/pool_kernel.cuh) and gathers g from
// the windows that cover it, 16 bytes per access, the last window first. It writes out once, so
// there are no atomics and the order of the sum is fixed. Each position that a window covers reads
// it again, from the caches; global pooling reads nothing else.

#pragma once

#include <cstdint>

#include "average_pool_backward/average_pool_backward.h"
#include "common/pool_kernel.cuh"

namespace sign_ext {

template <typename T, bool kWide>
__global__ void __launch_bounds__(kPoolThreads)
    average_pool_backward_kernel(AveragePoolBackwardArgs args, PoolGrid grid) {
  const std::uint32_t thread = blockIdx.x * kPoolThreads + threadIdx.x;
  if (thread >= grid.threads) return;
  const PoolPlace place = pool_place(grid, thread);
  const PoolAxis& h = args.window.h;
  const PoolAxis& w = args.window.w;
  const auto below = static_cast<std::uint32_t>(place.row + h.padding);
  const auto right = static_cast<std::uint32_t>(place.column + w.padding);
  const int last_h = static_cast<int>(divide(below, grid.stride_h));
  const int last_w = static_cast<int>(divide(right, grid.stride_w));
  const T* images = static_cast<const T*>(args.g) + 8 * place.group;

  float value[8] = {};
  int offset_h = static_cast<int>(below) - last_h * h.stride;
  for (int oh = last_h; oh >= 0 && offset_h < h.kernel; --oh, offset_h += h.stride) {
    if (oh >= h.out) continue;
    const int rows = average_pool_count(h, oh, args.count_include_pad);
    int offset_w = static_cast<int>(right) - last_w * w.stride;
    for (int ow = last_w; ow >= 0 && offset_w < w.kernel; --ow, offset_w += w.stride) {
      if (ow >= w.out) continue;
      const int divisor = args.divisor != 0
                              ? args.divisor
                              : rows * average_pool_count(w, ow, args.count_include_pad);
      const float scale = 1.0f / static_cast<float>(divisor);
      float g[8];
      pool_load<kWide>(images + ((place.image * h.out + oh) * w.out + ow) * grid.channels,
                       place.count, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] += g[i] * scale;
    }
  }
  pool_store_cotangent<kWide, T>(args.out, args.other, args.x_mask, args.x_slope, place,
                                 grid.channels, value);
}

// Calls launch(kernel) with the instantiation that fits the arguments. The launcher in the .cu file
// and the host tests both select through this.
template <typename T, typename Launch>
void average_pool_backward_choose_width(const AveragePoolBackwardArgs& args, Launch&& launch) {
  const bool wide = args.channels % 8 == 0 && pool_aligned(args.g, 16) &&
                    pool_aligned(args.out, 16) && pool_aligned(args.other, 16);
  if (wide) return launch(&average_pool_backward_kernel<T, true>);
  return launch(&average_pool_backward_kernel<T, false>);
}

template <typename Launch>
void average_pool_backward_choose(const AveragePoolBackwardArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) {
    return average_pool_backward_choose_width<float>(args, launch);
  }
  return average_pool_backward_choose_width<__nv_bfloat16>(args, launch);
}

}  // namespace sign_ext
