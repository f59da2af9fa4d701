// stem_update_: the input backward of a network's first dense convolution, added straight to the
// image, so that the cotangent of the image never exists in memory.
//
//   delta[n, y, x, c] = sum over (a, b, o) of pull_back(g[n, i, j, o]) * weight[a, b, c, o]
//       with i * stride_h + a * dilation_h - pad_top = y
//       and  j * stride_w + b * dilation_w - pad_left = x
//   v <- momentum * v + delta      where there is a velocity, else v is delta
//   q  = p + step_size * v
//   p <- clamp(q)                  NaN passes
//   watch[0] <- max(watch[0], |delta|),  watch[1] <- max(watch[1], |q|)      where there is a watch
//   and the step is counted, where there are counts (common/watch.h)
//
// A pixel's sum is always added up in the same order: the same call gives the same bits.
//
// Bytes moved: g once, s = sizeof(element) (4 or 2) an element and 1/8 byte of mask; p (and v) once
// each way, 8 (16) bytes an element; watch and counts 20 bytes a call and the same atomically for
// each block. Arithmetic: 2 * kernel_h * kernel_w * in_channels FLOP an
// element of g, 54 at 3x3 and 3 channels, so about 14 FLOP a byte: multiply-adds set the floor on a
// CPU (n * out_height * out_width * channels * kernel_h * kernel_w * in_channels / (lanes * units *
// clock)), and on a GPU they take about as long as the bytes.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext {

struct StemUpdateArgs {
  std::int64_t n;
  // The image, p and velocity: [n, height, width, in_channels].
  std::int64_t height;
  std::int64_t width;
  std::int64_t in_channels;
  // The convolution's output, g: [n, out_height, out_width, channels].
  std::int64_t out_height;
  std::int64_t out_width;
  std::int64_t channels;
  std::int64_t kernel_h;
  std::int64_t kernel_w;
  std::int64_t stride_h;
  std::int64_t stride_w;
  std::int64_t pad_top;
  std::int64_t pad_left;
  std::int64_t dilation_h;
  std::int64_t dilation_w;

  ElementType type;          // of g
  const void* g;             // never written
  const std::uint8_t* mask;  // [n * out_height * out_width, ceil(channels / 8)], or null
  float slope;
  const float* weight;   // [kernel_h, kernel_w, in_channels, channels]
  float* p;              // updated in place
  float* velocity;       // updated in place, or null
  float* watch;          // [2], or null
  std::int32_t* counts;  // [3], or null; counts need a watch
  float step_size;
  float momentum;
  float clamp_min;  // -inf: no lower bound
  float clamp_max;  // +inf: no upper bound; wins where the bounds are crossed
};

// The CPU kernel over rows [begin, end) of the image, of n * height. Splitting a call at any row
// changes no bit of the result; calls for different rows may run at the same time. The caller
// counts the step (count_step) when all rows are done.
void stem_update_cpu(const StemUpdateArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null, or the text of the CUDA error.
const char* stem_update_cuda(const StemUpdateArgs& args, void* stream);

}  // namespace sign_ext
