// winograd: a 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3), for CPUs:
// y = act(w * x + bias[k] + residual). (On CUDA, cuDNN has its own algorithms.)
//
// A tile of 2x2 outputs needs a 4x4 patch d of the input. With
//
//        | 1  0 -1  0 |        | 1    0    0  |
//   B^T= | 0  1  1  0 |    G = | 1/2  1/2 1/2 |    A^T = | 1  1  1  0 |
//        | 0 -1  1  0 |        | 1/2 -1/2 1/2 |          | 0  1 -1 -1 |
//        | 0  1  0 -1 |        | 0    0    1  |
//
// it is A^T [ (G g G^T) . (B^T d B) ] A, where the product is elementwise and summed over input
// channels: for each of the 16 places, one matrix product of tiles x C with C x K. (Lavin and Gray,
// "Fast Algorithms for Convolutional Neural Networks", 2016.) The caller passes the transformed
// weights G g G^T.
//
// FLOP per output and channel pair: 2 * 16 / 4 = 8 instead of 2 * 9 = 18, so the floor is 4/9 of
// the direct convolution's. The transforms add 32 / K + 24 / C additions to each. A chunk of
// kWinogradTiles tiles is transformed, multiplied and transformed back while it is in the L2 cache:
// 64 * kWinogradTiles * (C + K) bytes.
//
// Rounding: about twice the direct convolution's error. A patch that contains an infinity or a NaN
// gives NaN in all four outputs of its tile, even in those whose windows do not cover it.

#pragma once

#include <cstdint>

#include "common/activation.h"

namespace sign_ext {

constexpr std::int64_t kWinogradTiles = 24;
constexpr std::int64_t kWinogradLeastChannels = 16;

struct WinogradArgs {
  const float* x;         // [images, height, width, channels]
  const float* weight;    // [16, channels, out_channels], G g G^T at place 4 i + j
  const float* bias;      // [out_channels], or null
  const float* residual;  // like out, which it must not overlap, or null
  float* out;             // [images, out_height, out_width, out_channels]
  std::int64_t images, height, width, channels;      // channels >= kWinogradLeastChannels
  std::int64_t out_height, out_width, out_channels;  // and out_channels too
  std::int64_t pad_top, pad_left;                    // zeros before the image
  Activation activation;

  std::int64_t tiles() const { return images * ((out_height + 1) / 2) * ((out_width + 1) / 2); }
  std::int64_t chunks() const { return (tiles() + kWinogradTiles - 1) / kWinogradTiles; }
};

// Chunks [begin, end) of args.chunks(). Splitting a call anywhere gives bit-identical results.
void winograd_cpu(const WinogradArgs& args, std::int64_t begin, std::int64_t end);

}  // namespace sign_ext
