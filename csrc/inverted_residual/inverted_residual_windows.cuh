// The windows between the two products, forward and backward. A lane handles four adjacent channels
// of a position; 8 lanes handle the 32 of a chunk.
//
// If windows slide, a lane walks along a line and reads each position once, adding it to three
// positions of the output. Otherwise a lane gathers what one position's window covers.

#pragma once

#include "inverted_residual/inverted_residual_channels.cuh"

namespace sign_ext::block {

// What a lane reads: its channels, starting at an image's first position.
template <typename T>
struct Plane {
  const unsigned char* shared;
  int begin;  // bytes
  int row;    // bytes per position
  int height, width;

  __device__ __forceinline__ Four at(int position) const {
    return load_channels<4>(reinterpret_cast<const T*>(shared + (begin + position * row)));
  }
};

__device__ __forceinline__ void multiply_add(const Four& value, const Four& weight, Four& sum) {
#pragma unroll
  for (int c = 0; c < 4; ++c) sum.value[c] += value.value[c] * weight.value[c];
}

// Positions [begin, begin + length) of line y, 3x3 and stride 1. All lanes of a warp together call
// `emit(sum)` for each position in order. `taps` points at the lane's channels of the first tap.
template <bool kBackward, typename T, typename Emit>
__device__ __forceinline__ void slide_along(const Sizes& s, const Plane<T>& from, const float* taps,
                                            int y, int begin, int length, Emit&& emit) {
  const int top = y - (kBackward ? 2 - s.pad_top : s.pad_top);
  const int left = begin - (kBackward ? 2 - s.pad_left : s.pad_left);
  // A row outside the image has zero weights, and the nearest row inside is read in its place.
  Four weights[3][3];
  int lines[3];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const bool there = top + a >= 0 && top + a < from.height;
    lines[a] = there ? top + a : top + a < 0 ? 0 : from.height - 1;
    lines[a] = from.begin + lines[a] * from.width * from.row;
#pragma unroll
    for (int b = 0; b < 3; ++b) {
      const int tap = 3 * a + b;
      weights[a][b] = Four{};
      if (there) weights[a][b] = load_channels<4>(taps + (kBackward ? 8 - tap : tap) * kChunk);
    }
  }
  Four sums[3] = {};  // of the positions step - 2, step - 1 and step
#pragma unroll 1
  for (int step = 0; step < length + 2; ++step) {
    const int column = left + step;
    if (static_cast<unsigned int>(column) < static_cast<unsigned int>(from.width)) {
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        const Four value = load_channels<4>(
            reinterpret_cast<const T*>(from.shared + (lines[a] + column * from.row)));
#pragma unroll
        for (int b = 0; b < 3; ++b) multiply_add(value, weights[a][b], sums[2 - b]);
      }
    }
    if (step >= 2) emit(sums[0]);
    sums[0] = sums[1];
    sums[1] = sums[2];
    sums[2] = Four{};
  }
}

// Along one axis, the taps of a position that lie in the image: the first tap, the position it
// reads, and their number. Forward, taps and positions both advance by one. Backward, taps advance
// by the stride and positions go back by one.
struct Axis {
  int tap, position, count;
};

__device__ __forceinline__ int divided(int n, int stride) {
  return stride == 1 ? n : stride == 2 ? n >> 1 : n / stride;
}

template <bool kBackward>
__device__ __forceinline__ Axis axis_of(int at, int kernel, int stride, int pad, int size) {
  Axis axis;
  if constexpr (kBackward) {
    axis.position = divided(at + pad, stride);
    axis.tap = at + pad - axis.position * stride;
    const int past = axis.position - (size - 1);  // taps whose windows lie past the image
    if (past > 0) {
      axis.tap += past * stride;
      axis.position -= past;
    }
    const int left = kernel > axis.tap ? divided(kernel - 1 - axis.tap, stride) + 1 : 0;
    axis.count = left < axis.position + 1 ? left : axis.position + 1;
  } else {
    axis.position = at * stride - pad;
    axis.tap = axis.position < 0 ? -axis.position : 0;
    axis.position += axis.tap;
    const int left = size - axis.position;
    axis.count = kernel - axis.tap < left ? kernel - axis.tap : left;
  }
  return axis;
}

// One position, for any kernel and stride.
template <bool kBackward, typename T>
__device__ __forceinline__ Four gather(const Sizes& s, const Plane<T>& from, const float* taps,
                                       int y, int x) {
  const int on = kBackward ? -1 : 1;
  const int apart_h = kBackward ? s.stride_h : 1;
  const int apart_w = kBackward ? s.stride_w : 1;
  const Axis down = axis_of<kBackward>(y, s.kernel_h, s.stride_h, s.pad_top, from.height);
  const Axis right = axis_of<kBackward>(x, s.kernel_w, s.stride_w, s.pad_left, from.width);
  Four sum = {};
  for (int a = 0; a < down.count; ++a) {
    const int position = (down.position + on * a) * from.width + right.position;
    const float* const weights =
        taps + ((down.tap + apart_h * a) * s.kernel_w + right.tap) * kChunk;
#pragma unroll 1
    for (int b = 0; b < right.count; ++b) {
      multiply_add(from.at(position + on * b), load_channels<4>(weights + apart_w * b * kChunk),
                   sum);
    }
  }
  return sum;
}

}  // namespace sign_ext::block
