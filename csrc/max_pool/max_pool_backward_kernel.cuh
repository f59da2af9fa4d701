// The CUDA kernel of max_pool_backward (contract, bytes and floor: max_pool_backward.h) and the
// selection of its instantiation. There are no torch headers and no runtime calls here: nvcc
// compiles this source for the device, and the host compiler compiles the same source for
// csrc/tests.
//
// A thread owns 8 channels of one position of the input (common/pool_kernel.cuh) and gathers from
// the windows that cover it, the last one first: their g, 16 bytes per access, their packed index
// and their byte of the mask. It writes out once, so there are no atomics and the order of the sum
// is fixed. Each position that a window covers reads it again, from the caches.

#pragma once

#include <cstdint>

#include "common/pool_kernel.cuh"
#include "max_pool/max_pool_backward.h"

namespace sign_ext {

template <typename Word, bool kWide>
__device__ __forceinline__ Word max_pool_load_index(const std::uint8_t* bytes) {
  if constexpr (kWide) {
    return load_pack<Word, 1>(reinterpret_cast<const Word*>(bytes)).values[0];
  } else {
    Word word = 0;
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Word)); ++i) {
      word = static_cast<Word>(word | static_cast<Word>(bytes[i]) << (8 * i));
    }
    return word;
  }
}

// Adds one window's cotangent to the channels whose winner is `position`.
template <typename T, bool kWide, typename Word>
__device__ __forceinline__ void max_pool_gather(const MaxPoolBackwardArgs& args,
                                                const PoolGrid& grid, const PoolPlace& place,
                                                std::int64_t window, int position,
                                                float (&value)[8]) {
  constexpr int kBits = static_cast<int>(sizeof(Word));
  const std::int64_t group = window * grid.groups.divisor + place.group;
  float g[8];
  pool_load<kWide>(static_cast<const T*>(args.g) + window * grid.channels + 8 * place.group,
                   place.count, g);
  const Word word = max_pool_load_index<Word, kWide>(args.index + group * kBits);
  const unsigned bits = args.mask != nullptr ? args.mask[group] : 0xffu;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int winner = static_cast<int>(word >> (i * kBits) & ((1u << kBits) - 1u));
    if (winner == position) value[i] += pull_back(g[i], (bits >> i & 1u) != 0, args.slope);
  }
}

// Word has kBits bytes.
template <typename T, bool kWide, typename Word>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool_backward_kernel(MaxPoolBackwardArgs args, PoolGrid grid) {
  const std::uint32_t thread = blockIdx.x * kPoolThreads + threadIdx.x;
  if (thread >= grid.threads) return;
  const PoolPlace place = pool_place(grid, thread);
  const PoolAxis& h = args.window.h;
  const PoolAxis& w = args.window.w;
  const auto below = static_cast<std::uint32_t>(place.row + h.padding);
  const auto right = static_cast<std::uint32_t>(place.column + w.padding);
  const int last_h = static_cast<int>(divide(below, grid.stride_h));
  const int last_w = static_cast<int>(divide(right, grid.stride_w));
  const int reach_h = (h.kernel - 1) * h.dilation;
  const int reach_w = (w.kernel - 1) * w.dilation;

  float value[8] = {};
  int offset_h = static_cast<int>(below) - last_h * h.stride;
  for (int oh = last_h; oh >= 0 && offset_h <= reach_h; --oh, offset_h += h.stride) {
    if (oh >= h.out || (h.dilation != 1 && offset_h % h.dilation != 0)) continue;
    const int kh = h.dilation == 1 ? offset_h : offset_h / h.dilation;
    int offset_w = static_cast<int>(right) - last_w * w.stride;
    for (int ow = last_w; ow >= 0 && offset_w <= reach_w; --ow, offset_w += w.stride) {
      if (ow >= w.out || (w.dilation != 1 && offset_w % w.dilation != 0)) continue;
      const int kw = w.dilation == 1 ? offset_w : offset_w / w.dilation;
      max_pool_gather<T, kWide, Word>(args, grid, place, (place.image * h.out + oh) * w.out + ow,
                                      kh * w.kernel + kw, value);
    }
  }
  pool_store_cotangent<kWide, T>(args.out, args.other, args.x_mask, args.x_slope, place,
                                 grid.channels, value);
}

// Calls launch(kernel) with the instantiation that fits the arguments. The launcher in the .cu file
// and the host tests both select through this.
template <typename T, bool kWide, typename Launch>
void max_pool_backward_choose_bits(int bits, Launch&& launch) {
  if (bits == 2) return launch(&max_pool_backward_kernel<T, kWide, std::uint16_t>);
  if (bits == 4) return launch(&max_pool_backward_kernel<T, kWide, std::uint32_t>);
  return launch(&max_pool_backward_kernel<T, kWide, std::uint64_t>);
}

template <typename T, typename Launch>
void max_pool_backward_choose_width(const MaxPoolBackwardArgs& args, Launch&& launch) {
  const int bits = max_pool_index_bits(args.window);
  const bool wide = args.channels % 8 == 0 && pool_aligned(args.g, 16) &&
                    pool_aligned(args.out, 16) && pool_aligned(args.other, 16) &&
                    pool_aligned(args.index, static_cast<std::uintptr_t>(bits));
  if (wide) return max_pool_backward_choose_bits<T, true>(bits, launch);
  return max_pool_backward_choose_bits<T, false>(bits, launch);
}

template <typename Launch>
void max_pool_backward_choose(const MaxPoolBackwardArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) {
    return max_pool_backward_choose_width<float>(args, launch);
  }
  return max_pool_backward_choose_width<__nv_bfloat16>(args, launch);
}

}  // namespace sign_ext
