// What the CUDA pooling kernels share: a thread owns a group of 8 adjacent channels of one position
// of an image, and so one byte of a bit mask and one integer of a packed index.
//
// Adjacent threads own adjacent groups, then columns, rows and images, so a warp accesses one
// contiguous range of memory. A launch covers fewer than 2^31 threads and whole images, so a thread
// finds its place in 32-bit arithmetic. Offsets into tensors are 64-bit.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/device.cuh"
#include "common/divisor.cuh"
#include "common/pack.cuh"
#include "common/pool_window.h"

namespace sign_ext {

constexpr int kPoolThreads = 256;

// The positions that one launch covers: whole images, starting with `first_image`.
struct PoolGrid {
  Divisor groups, width, height;  // groups of 8 channels, columns, rows
  Divisor stride_h, stride_w;
  std::int64_t first_image;
  std::uint32_t threads;
  int channels;
};

struct PoolPlace {
  std::int64_t image;
  int row, column;
  int group, count;       // channels 8 * group .. 8 * group + count - 1
  std::int64_t position;  // among the positions of all images
};

__device__ __forceinline__ PoolPlace pool_place(const PoolGrid& grid, std::uint32_t thread) {
  const std::uint32_t pixel = divide(thread, grid.groups);
  const std::uint32_t line = divide(pixel, grid.width);
  const std::uint32_t image = divide(line, grid.height);
  PoolPlace place;
  place.group = static_cast<int>(thread - pixel * grid.groups.divisor);
  place.column = static_cast<int>(pixel - line * grid.width.divisor);
  place.row = static_cast<int>(line - image * grid.height.divisor);
  place.image = grid.first_image + image;
  place.position =
      (grid.first_image * grid.height.divisor + line) * grid.width.divisor + place.column;
  const int rest = grid.channels - 8 * place.group;
  place.count = rest < 8 ? rest : 8;
  return place;
}

// kWide: 8 channels at 16-byte aligned addresses.
template <bool kWide, typename T>
__device__ __forceinline__ void pool_load(const T* address, int count, float (&values)[8]) {
  if constexpr (kWide) {
    load_8(address, values);
  } else {
    load_up_to_8(address, count, values);
  }
}

template <bool kWide, typename T>
__device__ __forceinline__ void pool_store(T* address, int count, const float (&values)[8]) {
  if constexpr (kWide) {
    store_8(address, values);
  } else {
    store_up_to_8(address, count, values);
  }
}

// out = pull_back(value + other, x_mask, x_slope) at one place; other may be out.
template <bool kWide, typename T>
__device__ __forceinline__ void pool_store_cotangent(void* out, const void* other,
                                                     const std::uint8_t* x_mask, float x_slope,
                                                     const PoolPlace& place, int channels,
                                                     float (&value)[8]) {
  const std::int64_t at = place.position * channels + 8 * place.group;
  if (other != nullptr) {
    float added[8];
    pool_load<kWide>(static_cast<const T*>(other) + at, place.count, added);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] += added[i];
  }
  if (x_mask != nullptr) {
    const unsigned bits = x_mask[place.position * mask_row_bytes(channels) + place.group];
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = pull_back(value[i], (bits >> i & 1u) != 0, x_slope);
  }
  pool_store<kWide>(static_cast<T*>(out) + at, place.count, value);
}

// Calls launch(grid, blocks) for each launch that n images of height x width positions take. One
// image has fewer than 2^31 groups of channels.
template <typename Launch>
void pool_for_each_launch(std::int64_t n, std::int64_t channels, int height, int width,
                          const PoolWindow& window, Launch&& launch) {
  const std::int64_t groups = mask_row_bytes(channels);
  const std::int64_t per_image = groups * height * width;
  if (n == 0 || per_image == 0) return;
  const std::int64_t most = 0x7fffffff / per_image;
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t images = n - first < most ? n - first : most;
    PoolGrid grid{};
    grid.groups = divisor_of(groups);
    grid.width = divisor_of(width);
    grid.height = divisor_of(height);
    grid.stride_h = divisor_of(window.h.stride);
    grid.stride_w = divisor_of(window.w.stride);
    grid.first_image = first;
    grid.threads = static_cast<std::uint32_t>(images * per_image);
    grid.channels = static_cast<int>(channels);
    launch(grid, (grid.threads + kPoolThreads - 1) / kPoolThreads);
  }
}

inline bool pool_aligned(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace sign_ext
