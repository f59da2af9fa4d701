// stem_update_: the input backward of a network's first dense convolution, added directly to the
// image, so the cotangent of the image is never stored in memory.
//
//   delta[n, y, x, c] = sum over (a, b, o) of pull_back(g[n, i, j, o]) * weight[a, b, c, o]
//       with i * stride_h + a * dilation_h - pad_top = y
//       and  j * stride_w + b * dilation_w - pad_left = x
//   v <- momentum * v + delta      with a velocity; otherwise v is delta
//   q  = p + step_size * v
//   p <- clamp(q)                  NaN passes
//   watch[0] <- max(watch[0], |delta|),  watch[1] <- max(watch[1], |q|)      with a watch
//   and the step is counted, with counts (common/watch.h)
//
// A pixel's sum is always added in the same order: the same call gives the same bits.
//
// Bytes moved: g once, s = sizeof(element) (4 or 2) per element plus 1/8 byte of mask; p (and v)
// read and written once, 8 (16) bytes per element; watch and counts 20 bytes per call, and as many
// again atomically for each block. Arithmetic: 2 * kernel_h * kernel_w * in_channels FLOP per
// element of g, 54 for 3x3 and 3 channels, so about 14 FLOP per byte. Multiply-adds set the floor
// on a CPU (n * out_height * out_width * channels * kernel_h * kernel_w * in_channels / (lanes *
// units * clock)); on a GPU they take about as long as moving the bytes.

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
  float clamp_max;  // +inf: no upper bound; wins if the bounds cross
};

// The CPU kernel over rows [begin, end) of the n * height rows of the images. Splitting a call at
// any row gives bit-identical results; calls for different rows may run concurrently. The caller
// counts the step (count_step) once all rows are done.
void stem_update_cpu(const StemUpdateArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null on success, else the CUDA error message.
const char* stem_update_cuda(const StemUpdateArgs& args, void* stream);

}  // namespace sign_ext
