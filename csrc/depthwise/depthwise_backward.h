// depthwise_backward: the cotangent of depthwise's x from the cotangent g of its output, pulled
// back through depthwise's activation first, and finally through the activation that produced x.
//
//   value[n, y, x, c] = sum over outputs (i, j) and taps (a, b) with
//                         i * stride_h + a * dilation_h - pad_top = y and
//                         j * stride_w + b * dilation_w - pad_left = x
//                       of pull_back(g[n, i, j, c], mask bit, slope) * weight[a, b, c]
//   out = pull_back(value + other, x_mask bit, x_slope)
//
// Bytes moved, with s = sizeof(element) (4 or 2): g and its mask are read once, out is written
// once, other and x_mask are read once if given; the weights stay in caches. Per element of out
// that is 2 s at stride 1, and up to s + 1/4 more; at stride 2, 5/4 s. Arithmetic per element:
// 2 * kernel_h * kernel_w FLOP at stride 1, a quarter of that at stride 2. Memory sets the floor,
// except for large kernels on images that fit in caches.

#pragma once

#include <cstdint>

#include "depthwise/depthwise.h"

namespace sign_ext {

struct DepthwiseBackwardArgs {
  DepthwiseSizes sizes;        // of the forward convolution
  ElementType type;            // of g, other and out
  const void* g;               // [n, out_height, out_width, channels]
  const float* weight;         // [kernel_h, kernel_w, channels]
  const void* other;           // [n, height, width, channels], may be out, or null
  void* out;                   // [n, height, width, channels], does not overlap g
  const std::uint8_t* mask;    // [n * out_height * out_width, ceil(channels / 8)], or null
  const std::uint8_t* x_mask;  // [n * height * width, ceil(channels / 8)], or null
  float slope;                 // of the activation that wrote mask
  float x_slope;               // of the activation that wrote x_mask
};

// The CPU kernel over rows [begin, end) of the n * height rows of out. Splitting a call at any row
// gives bit-identical results.
void depthwise_backward_cpu(const DepthwiseBackwardArgs& args, std::int64_t begin,
                            std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once,
// several times if x or the output has 2^31 elements or more. Returns null on success, else the
// CUDA error message, or that one image has so many elements.
const char* depthwise_backward_cuda(const DepthwiseBackwardArgs& args, void* stream);

}  // namespace sign_ext
