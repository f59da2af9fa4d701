// max_pool: the maximum of each window, plus a bias and an activation, and the position that won.
//
//   y[n, oh, ow, c] = act(bias[c] + max over the window's positions inside the image of x)
//
// In memory x is (N, H, W, C) and y is (N, OH, OW, C). A bias and a monotone activation commute
// with the maximum, so what a convolution would apply to every value of the window is applied only
// to the pooled one. Ties and NaN follow PyTorch: the first maximum in row-major order wins, and a
// NaN replaces whatever came before it. (common/activation.h describes the activation and the mask
// of its bits, which are computed from y as stored.)
//
// index holds the winner's position in the window, kh * KW + kw, in 2, 4 or 8 bits. Row by row (n,
// oh, ow), the positions of 8 adjacent channels form one little-endian integer of 2, 4 or 8 bytes,
// channel j's at bits [j * bits, (j + 1) * bits). Bits past the last channel are 0. An index thus
// costs 1/2 to 2 bits per input element, where PyTorch keeps 64 bits per y.
//
// Bytes moved, with s = sizeof(element): x and y once, bits / 8 for the index and 1/8 for the mask:
// N * C * (H * W * s + OH * OW * (s + bits / 8 + 1 / 8)). KH * KW - 1 comparisons per y: memory
// sets the floor. For 2x2 windows of float32 that is 20.4 bytes per y.

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
  PoolWindow window;  // every window has a position in the image, and at most 256 positions
};

// The number of bits of a window position; 0 if there are more positions than 8 bits can
// distinguish.
inline int max_pool_index_bits(const PoolWindow& window) {
  const std::int64_t positions = std::int64_t{window.h.kernel} * window.w.kernel;
  return positions <= 4 ? 2 : positions <= 16 ? 4 : positions <= 256 ? 8 : 0;
}

// Rows [begin, end) of the n * h.out rows of windows. Splitting a call anywhere gives bit-identical
// results.
void max_pool_cpu(const MaxPoolArgs& args, std::int64_t begin, std::int64_t end);

// Launches on `stream` (a cudaStream_t) of the current device. Returns null on success, else the
// CUDA error message.
const char* max_pool_cuda(const MaxPoolArgs& args, void* stream);

}  // namespace sign_ext
