// max_pool: the greatest value of each window, a bias and an activation, and which position won.
//
//   y[n, oh, ow, c] = act(bias[c] + max over the window's positions inside the image of x)
//
// x is (N, H, W, C) and y is (N, OH, OW, C) in memory. A bias and a monotone activation commute
// with the maximum, so what a convolution would add to each of the window's values is added to the
// pooled one alone. Ties and NaN are PyTorch's: the first greatest value in row-major order wins,
// and a NaN replaces whatever came before it. (common/activation.h: the activation and the mask of
// its bits, which are taken from y as stored.)
//
// index keeps the winner's position in the window, kh * KW + kw, in 2, 4 or 8 bits: row by row
// (n, oh, ow), the positions of 8 neighbouring channels are one little-endian integer of 2, 4 or 8
// bytes, channel j's at bits [j * bits, (j + 1) * bits). Bits behind the last channel are 0. So an
// index costs what half a bit to 2 bits an input element cost, where PyTorch keeps 64 for each y.
//
// Bytes moved, with s = sizeof(element): x and y once, bits / 8 for the index and 1/8 for the mask:
// N * C * (H * W * s + OH * OW * (s + bits / 8 + 1 / 8)). Per y, KH * KW - 1 comparisons: memory
// sets the floor. 2x2 windows of float32: 20.4 bytes for each y.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/pool_window.h"
#include "common/storage.h"

namespace sign_ext {

struct MaxPoolArgs {
  ElementType type;     // of x and y
  const void* x;        // [n * h.size * w.size, channels]
  void* y;              // [n * h.out * w.out, channels]
  std::uint8_t* index;  // [n * h.out * w.out, ceil(channels / 8), bits]
  std::uint8_t* mask;   // [n * h.out * w.out, ceil(channels / 8)], or null
  const float* bias;    // [channels], or null
  Activation activation;
  std::int64_t n;
  std::int64_t channels;
  PoolWindow window;  // every window has a position in the image; at most 256 positions
};

// Bits that a window position takes; 0 where it has more positions than 8 bits tell apart.
inline int max_pool_index_bits(const PoolWindow& window) {
  const std::int64_t positions = std::int64_t{window.h.kernel} * window.w.kernel;
  return positions <= 4 ? 2 : positions <= 16 ? 4 : positions <= 256 ? 8 : 0;
}

// Rows [begin, end) of windows, of n * h.out. Splitting a call anywhere changes no bit.
void max_pool_cpu(const MaxPoolArgs& args, std::int64_t begin, std::int64_t end);

// Launches on `stream` (a cudaStream_t) of the current device. Null, or the text of the CUDA error.
const char* max_pool_cuda(const MaxPoolArgs& args, void* stream);

}  // namespace sign_ext
