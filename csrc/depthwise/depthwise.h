// depthwise: a 2-d convolution of each channel with its own kernel, its bias, its activation and
// the activation's bit mask in one pass.
//
//   v[n, i, j, c] = bias[c] + sum over (a, b) of x[n, i * stride_h + a * dilation_h - pad_top,
//                                                  j * stride_w + b * dilation_w - pad_left, c]
//                                               * weight[a, b, c]
//   y = activate(v), rounded to out's type;   mask bit = whether the activation passes, read off y
//
// x outside its height and width is 0. Padding is what is added in front; out's size says how far
// the windows go, so that padding may differ in front and behind.
//
// Bytes moved, with s = sizeof(element) (4 or 2): x is read once, out written once, and 1/8 byte of
// mask an element of out; the weights, kernel_h * kernel_w * channels floats, stay in caches. At
// stride 1 that is 2 s + 1/8 an element of out. Arithmetic: 2 * kernel_h * kernel_w FLOP an element
// of out, so 2.2 (3x3) to 12 (7x7) FLOP a byte of float32: memory sets the floor of all but the
// large kernels on images that caches hold.

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
  void* out;            // [n, out_height, out_width, channels], apart from x
  std::uint8_t* mask;   // [n * out_height * out_width, ceil(channels / 8)], or null
  Activation activation;
};

// The side of a square kernel of one stride without dilation that has kernels of its own (3, 5 or 7
// at stride 1 or 2), or 0.
inline int depthwise_side(const DepthwiseSizes& s) {
  const bool square = s.kernel_h == s.kernel_w && s.stride_h == s.stride_w && s.dilation_h == 1 &&
                      s.dilation_w == 1;
  const bool known = s.kernel_w == 3 || s.kernel_w == 5 || s.kernel_w == 7;
  return square && known && s.stride_w <= 2 ? static_cast<int>(s.kernel_w) : 0;
}

// The CPU kernel over rows [begin, end) of out, of n * out_height. Splitting a call at any row
// changes no bit of the result.
void depthwise_cpu(const DepthwiseArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null, or the text of the CUDA error.
const char* depthwise_cuda(const DepthwiseArgs& args, void* stream);

}  // namespace sign_ext
