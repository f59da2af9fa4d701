// depthwise: a 2-d convolution of each channel with its own kernel, plus bias, activation and the
// activation's bit mask, in one pass.
//
//   v[n, i, j, c] = bias[c] + sum over (a, b) of x[n, i * stride_h + a * dilation_h - pad_top,
//                                                  j * stride_w + b * dilation_w - pad_left, c]
//                                               * weight[a, b, c]
//   y = activate(v), rounded to out's type;   mask bit = whether the activation passes, from y
//
// x outside its height and width is 0. Padding is what is added at the start; out's size determines
// how far the windows go, so the padding at the end may differ.
//
// Bytes moved, with s = sizeof(element) (4 or 2): x is read once, out is written once, plus 1/8
// byte of mask per element of out; the weights, kernel_h * kernel_w * channels floats, stay in
// caches. At stride 1 that is 2 s + 1/8 per element of out. Arithmetic: 2 * kernel_h * kernel_w
// FLOP per element of out, so 2.2 (3x3) to 12 (7x7) FLOP per byte of float32. Memory sets the
// floor, except for large kernels on images that fit in caches.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext {

// The sizes of a depthwise convolution, forward and backward. x is [n, height, width, channels];
// the output is [n, out_height, out_width, channels].
struct DepthwiseSizes {
  std::int64_t n;
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  std::int64_t out_height;
  std::int64_t out_width;
  std::int64_t kernel_h;
  std::int64_t kernel_w;
  std::int64_t stride_h;
  std::int64_t stride_w;
  std::int64_t pad_top;
  std::int64_t pad_left;
  std::int64_t dilation_h;
  std::int64_t dilation_w;
};

struct DepthwiseArgs {
  DepthwiseSizes sizes;
  ElementType type;     // of x and out
  const void* x;        // [n, height, width, channels]
  const float* weight;  // [kernel_h, kernel_w, channels]
  const float* bias;    // [channels], or null
  void* out;            // [n, out_height, out_width, channels], does not overlap x
  std::uint8_t* mask;   // [n * out_height * out_width, ceil(channels / 8)], or null
  Activation activation;
};

// The side of a square convolution kernel that has specialized code (3, 5 or 7, stride 1 or 2 on
// both axes, no dilation), or 0.
inline int depthwise_side(const DepthwiseSizes& s) {
  const bool square = s.kernel_h == s.kernel_w && s.stride_h == s.stride_w && s.dilation_h == 1 &&
                      s.dilation_w == 1;
  const bool known = s.kernel_w == 3 || s.kernel_w == 5 || s.kernel_w == 7;
  return square && known && s.stride_w <= 2 ? static_cast<int>(s.kernel_w) : 0;
}

// The CPU kernel over rows [begin, end) of the n * out_height rows of out. Splitting a call at any
// row gives bit-identical results.
void depthwise_cpu(const DepthwiseArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once,
// several times if x or the output has 2^31 elements or more. Returns null on success, else the
// CUDA error message, or that one image has so many elements.
const char* depthwise_cuda(const DepthwiseArgs& args, void* stream);

}  // namespace sign_ext
