// strided_convolution: a dense convolution with strides, or its transpose, for CPUs (on CUDA, cuDNN
// has its own algorithms):
//
//   out[y, x, k] = act( sum over a, b, c of in[y s - p + a, x s - p + b, c] w[a, b, c, k]
//                       + bias[k] + residual[y, x, k] )
//
// and, transposed, what a gradient needs:
//
//   out[y, x, k] = act( sum over a, b, c with s | y + p - a, s | x + p - b of
//                       in[(y + p - a) / s, (x + p - b) / s, c] w[a, b, c, k] + ... )
//
// Positions outside the input count as zero. The transposed sum has four different sets of taps for
// a stride of 2, one for each parity of y and x; no product with an inserted zero is computed.
//
// The rows that an output row reads are copied once to a ring with zeros around them, so the sums
// need no border checks. A block of outputs, adjacent pixels times vectors of channels, stays in
// registers across all taps.
//
// FLOP: 2 * out * channels * kernel_h * kernel_w / stride^2 (transposed) or without the quotient.

#pragma once

#include <cstddef>
#include <cstdint>

#include "common/activation.h"

namespace sign_ext {

constexpr std::int64_t kStridedMostPixels = 12;  // that are summed together

struct StridedConvolutionArgs {
  const float* x;         // [images, height, width, channels]
  const float* weight;    // [kernel_h, kernel_w, channels, out_channels]
  const float* bias;      // [out_channels], or null
  const float* residual;  // like out, which it must not overlap, or null
  float* out;             // [images, out_height, out_width, out_channels]
  std::int64_t images, height, width, channels;
  std::int64_t out_height, out_width, out_channels;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w;
  std::int64_t pad_top, pad_left;  // zeros before the image; transposed: of the other direction
  bool transposed;
  Activation activation;

  std::int64_t rows() const { return images * out_height; }
};

// A run of products: `count` adjacent values of a row of the ring, and their weights' first.
struct StridedTap {
  const float* x;
  const float* weight;
  std::int64_t count;
};

struct StridedPlan {
  std::int64_t left;     // columns of zeros before the input's first
  std::int64_t columns;  // of a row of the ring
  std::int64_t ring_rows;
};

inline StridedPlan strided_plan(const StridedConvolutionArgs& args) {
  StridedPlan plan{};
  if (args.transposed) {
    const std::int64_t reach = args.kernel_w - 1 - args.pad_left;
    plan.left = reach > 0 ? (reach + args.stride_w - 1) / args.stride_w : 0;
    plan.columns =
        plan.left + (args.out_width - 1 + args.pad_left) / args.stride_w + 1 + kStridedMostPixels;
    plan.ring_rows = (args.kernel_h - 1) / args.stride_h + 1;
  } else {
    plan.left = args.pad_left;
    plan.columns = (args.out_width - 1 + kStridedMostPixels) * args.stride_w + args.kernel_w;
    plan.ring_rows = args.kernel_h;
  }
  return plan;
}

struct StridedWorkspace {
  float* ring;         // [ring_rows, columns, channels]
  StridedTap* taps;    // [kernel_h * kernel_w]
  std::int64_t* rows;  // [ring_rows]: the row of x, of images * height, in each slot; -1: none
};

// Lays out the parts starting at `base`, each 64-byte aligned. Returns the bytes they take.
inline std::size_t strided_workspace(const StridedConvolutionArgs& args, const StridedPlan& plan,
                                     std::uintptr_t base, StridedWorkspace* workspace) {
  std::size_t used = 0;
  const auto part = [&](auto*& pointer, std::int64_t count) {
    pointer = reinterpret_cast<decltype(+pointer)>(base + used);
    used += (static_cast<std::size_t>(count) * sizeof(*pointer) + 63) / 64 * 64;
  };
  part(workspace->ring, plan.ring_rows * plan.columns * args.channels);
  part(workspace->taps, args.kernel_h * args.kernel_w);
  part(workspace->rows, plan.ring_rows);
  return used;
}

// Rows [begin, end) of args.rows(). Splitting a call anywhere gives bit-identical results.
void strided_convolution_cpu(const StridedConvolutionArgs& args, std::int64_t begin,
                             std::int64_t end);

}  // namespace sign_ext
