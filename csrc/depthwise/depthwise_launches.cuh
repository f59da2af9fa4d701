// How the threads of depthwise and depthwise_backward find their place, and which launches a call
// takes.
//
// Adjacent threads own adjacent groups of 8 channels, then tiles (adjacent pixels of a row), rows
// and images. A launch covers whole images in which no array has 2^31 elements, so places and
// elements are 32-bit numbers, and no thread divides (common/divisor.cuh). More images take several
// launches, each with its own pointers.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "common/divisor.cuh"
#include "depthwise/depthwise.h"

namespace sign_ext {

constexpr int kDepthwiseThreads = 128;

// Blocks per multiprocessor to compile for: as many as there are registers for.
template <int kSide, bool kWide>
inline constexpr int kDepthwiseBlocks = kSide == 3   ? (kWide ? 4 : 3)
                                        : kSide == 5 ? 3
                                                     : 2;

struct DepthwiseGrid {
  Divisor groups, tiles, height;  // groups of 8 channels, tiles of a row, rows of an image
  std::uint32_t threads;
  std::uint32_t channels;
};

struct DepthwisePlace {
  int tile;
  int row;
  std::uint32_t line;  // the row among those of all images
  std::uint32_t image;
  std::uint32_t group, groups;
  std::uint32_t channel, channels;  // the group's first
  int count;                        // how many of its 8 channels exist; 0: no work
};

template <bool kWide>
__device__ __forceinline__ DepthwisePlace depthwise_place(const DepthwiseGrid& grid) {
  const std::uint32_t thread = blockIdx.x * kDepthwiseThreads + threadIdx.x;
  const std::uint32_t tile = divide(thread, grid.groups);
  DepthwisePlace place;
  place.line = divide(tile, grid.tiles);
  place.image = divide(place.line, grid.height);
  place.tile = static_cast<int>(rest(tile, place.line, grid.tiles));
  place.row = static_cast<int>(rest(place.line, place.image, grid.height));
  place.groups = grid.groups.divisor;
  place.group = rest(thread, tile, grid.groups);
  place.channels = grid.channels;
  place.channel = place.group * 8;
  const std::uint32_t left = kWide ? 8 : grid.channels - place.channel;
  place.count = thread >= grid.threads ? 0 : left < 8 ? static_cast<int>(left) : 8;
  return place;
}

struct DepthwisePlane {
  int height, width;
};

// Two sizes as the kernels use them. depthwise_for_each_part has checked their range.
__device__ __forceinline__ DepthwisePlane depthwise_plane(std::int64_t height, std::int64_t width) {
  return {static_cast<int>(height), static_cast<int>(width)};
}

// Whether 0 <= position < size, in one comparison.
__device__ __forceinline__ bool depthwise_inside(int position, int size) {
  return static_cast<unsigned int>(position) < static_cast<unsigned int>(size);
}

// The index of the place's first channel at one position of its image. Modulo 2^32, so that what is
// added to a position outside the image leads to the right element inside.
__device__ __forceinline__ std::uint32_t depthwise_element(const DepthwisePlace& place, int height,
                                                           int width, int y, int x) {
  const std::uint32_t line =
      place.image * static_cast<std::uint32_t>(height) + static_cast<std::uint32_t>(y);
  const std::uint32_t pixel =
      line * static_cast<std::uint32_t>(width) + static_cast<std::uint32_t>(x);
  return pixel * place.channels + place.channel;
}

inline DepthwiseGrid depthwise_grid(std::int64_t images, std::int64_t channels, std::int64_t height,
                                    std::int64_t tiles) {
  const std::int64_t groups = mask_row_bytes(channels);
  DepthwiseGrid grid{};
  grid.groups = divisor_of(groups);
  grid.tiles = divisor_of(tiles);
  grid.height = divisor_of(height);
  grid.threads = static_cast<std::uint32_t>(images * height * tiles * groups);
  grid.channels = static_cast<std::uint32_t>(channels);
  return grid;
}

inline unsigned int depthwise_blocks(const DepthwiseGrid& grid) {
  return (grid.threads + kDepthwiseThreads - 1) / kDepthwiseThreads;
}

// Calls part(first_image, images) for each launch that the images of a convolution take, of at most
// `most` elements of x and of its output each. Returns null, or why that is not possible. An image
// has at least one element, of x or of its output.
template <typename Part>
const char* depthwise_for_each_part(const DepthwiseSizes& s, std::int64_t most, Part&& part) {
  const std::int64_t x = s.height * s.width * s.channels;
  const std::int64_t out = s.out_height * s.out_width * s.channels;
  // Windows begin up to the padding before the image and past it; half of what an int holds leaves
  // room for a tile that ends past the last window.
  constexpr std::int64_t kMostReach = 1 << 30;
  const std::int64_t reach_h =
      s.height + 2 * s.pad_top + s.kernel_h * s.dilation_h + 4 * s.stride_h;
  const std::int64_t reach_w =
      s.width + 2 * s.pad_left + s.kernel_w * s.dilation_w + 4 * s.stride_w;
  if (std::max(reach_h, reach_w) > kMostReach) {
    return "the image, its padding and the kernel reach over more than 2^30 positions";
  }
  const std::int64_t taps = s.kernel_h * s.kernel_w * s.channels;
  const std::int64_t per_image = std::max(x, out);
  if (std::max(taps, per_image) > most) {
    return "one image or the weight has 2^31 elements or more: split the channels";
  }
  const std::int64_t images = most / per_image;
  for (std::int64_t first = 0; first < s.n; first += images) {
    part(first, std::min(images, s.n - first));
  }
  return nullptr;
}

}  // namespace sign_ext
