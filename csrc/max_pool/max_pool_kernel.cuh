// The CUDA kernel of max_pool (contract, bytes and floor: max_pool.h) and the selection of its
// instantiation. There are no torch headers and no runtime calls here: nvcc compiles this source
// for the device, and the host compiler compiles the same source for csrc/tests.
//
// A thread owns 8 channels of one window (common/pool_kernel.cuh): it reads them at each of the
// window's positions, 16 bytes per access, and writes 8 values, their packed positions and a byte
// of the mask. Windows that overlap are read again from the caches. A position outside the image
// reads the nearest one inside, so that all of a window's loads are in flight together, and never
// wins.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/pool_kernel.cuh"
#include "max_pool/max_pool.h"

namespace sign_ext {

__device__ __forceinline__ void max_pool_challenge(const float (&values)[8], bool inside,
                                                   int position, float (&best)[8],
                                                   int (&winner)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float value = values[i];
    if (inside && (value > best[i] || value != value)) {
      best[i] = value;
      winner[i] = position;
    }
  }
}

__device__ __forceinline__ int max_pool_nearest(int at, int size) {
  return at < 0 ? 0 : at < size ? at : size - 1;
}

template <typename Word, bool kWide>
__device__ __forceinline__ void max_pool_store_index(std::uint8_t* bytes, Word word) {
  if constexpr (kWide) {
    Pack<Word, 1> pack;
    pack.values[0] = word;
    store_pack<Word, 1>(reinterpret_cast<Word*>(bytes), pack);
  } else {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Word)); ++i) {
      bytes[i] = static_cast<std::uint8_t>(word >> (8 * i));
    }
  }
}

// kKernel: 2 or 3, the size of square windows, which are unrolled, or 0 for any window. Word has
// kBits bytes.
template <typename T, bool kWide, int kKernel, typename Word>
__global__ void __launch_bounds__(kPoolThreads) max_pool_kernel(MaxPoolArgs args, PoolGrid grid) {
  constexpr int kBits = static_cast<int>(sizeof(Word));
  const std::uint32_t thread = blockIdx.x * kPoolThreads + threadIdx.x;
  if (thread >= grid.threads) return;
  const PoolPlace place = pool_place(grid, thread);
  const PoolAxis& h = args.window.h;
  const PoolAxis& w = args.window.w;
  const int top = place.row * h.stride - h.padding;
  const int left = place.column * w.stride - w.padding;
  const int kernel_h = kKernel != 0 ? kKernel : h.kernel;
  const int kernel_w = kKernel != 0 ? kKernel : w.kernel;
  const T* image = static_cast<const T*>(args.x) + place.image * h.size * w.size * grid.channels +
                   8 * place.group;

  float best[8];
  int winner[8];
  const int first_h = top < 0 ? (-top + h.dilation - 1) / h.dilation : 0;
  const int first_w = left < 0 ? (-left + w.dilation - 1) / w.dilation : 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    best[i] = -INFINITY;
    winner[i] = first_h * kernel_w + first_w;
  }
  [[maybe_unused]] constexpr int kUnroll = kKernel != 0 ? kKernel : 1;
#pragma unroll kUnroll
  for (int kh = 0; kh < kernel_h; ++kh) {
    const int ih = top + kh * h.dilation;
    const T* row = image + std::int64_t{max_pool_nearest(ih, h.size)} * w.size * grid.channels;
#pragma unroll kUnroll
    for (int kw = 0; kw < kernel_w; ++kw) {
      const int iw = left + kw * w.dilation;
      const bool inside = ih >= 0 && ih < h.size && iw >= 0 && iw < w.size;
      float values[8];
      pool_load<kWide>(row + std::int64_t{max_pool_nearest(iw, w.size)} * grid.channels,
                       place.count, values);
      max_pool_challenge(values, inside, kh * kernel_w + kw, best, winner);
    }
  }

  const std::int64_t group = place.position * grid.groups.divisor + place.group;
  if (args.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (kWide || i < place.count) best[i] += args.bias[8 * place.group + i];
    }
  }
  Word word = 0;
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    best[i] = activate(best[i], args.activation);
    if (kWide || i < place.count) {
      word = static_cast<Word>(word | static_cast<Word>(winner[i]) << (i * kBits));
      bits |= passes(widen(narrow<T>(best[i])), args.activation) ? 1u << i : 0u;
    }
  }
  pool_store<kWide>(static_cast<T*>(args.y) + place.position * grid.channels + 8 * place.group,
                    place.count, best);
  max_pool_store_index<Word, kWide>(args.index + group * kBits, word);
  if (args.mask != nullptr) args.mask[group] = static_cast<std::uint8_t>(bits);
}

// Calls launch(kernel) with the instantiation that fits the arguments. The launcher in the .cu file
// and the host tests both select through this.
template <typename T, typename Launch>
void max_pool_choose_size(const MaxPoolArgs& args, Launch&& launch) {
  const int bits = max_pool_index_bits(args.window);
  const bool wide = args.channels % 8 == 0 && pool_aligned(args.x, 16) &&
                    pool_aligned(args.y, 16) &&
                    pool_aligned(args.index, static_cast<std::uintptr_t>(bits));
  const int size = args.window.h.kernel == args.window.w.kernel ? args.window.h.kernel : 0;
  if (wide && size == 2) return launch(&max_pool_kernel<T, true, 2, std::uint16_t>);
  if (wide && size == 3) return launch(&max_pool_kernel<T, true, 3, std::uint32_t>);
  if (wide && bits == 2) return launch(&max_pool_kernel<T, true, 0, std::uint16_t>);
  if (wide && bits == 4) return launch(&max_pool_kernel<T, true, 0, std::uint32_t>);
  if (wide) return launch(&max_pool_kernel<T, true, 0, std::uint64_t>);
  if (bits == 2) return launch(&max_pool_kernel<T, false, 0, std::uint16_t>);
  if (bits == 4) return launch(&max_pool_kernel<T, false, 0, std::uint32_t>);
  return launch(&max_pool_kernel<T, false, 0, std::uint64_t>);
}

template <typename Launch>
void max_pool_choose(const MaxPoolArgs& args, Launch&& launch) {
  if (args.type == ElementType::kFloat32) return max_pool_choose_size<float>(args, launch);
  return max_pool_choose_size<__nv_bfloat16>(args, launch);
}

}  // namespace sign_ext
