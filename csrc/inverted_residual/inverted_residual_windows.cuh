// The windows between the two products, forward and back: a lane has two neighbouring channels and
// goes along a line of positions; 16 lanes have the 32 channels of a chunk.
//
// `emit(pair)` is called for each position of the line, one after the other, by all lanes of a warp
// together.

#pragma once

#include "inverted_residual/inverted_residual_pair.cuh"

namespace sign_ext::block {

// What a lane reads: its channels, from an image's first position on.
template <typename T>
struct Plane {
  const unsigned char* shared;
  int begin;  // bytes
  int row;    // of a position
  int height, width;

  __device__ __forceinline__ Plane behind(int positions) const {
    return {shared, begin + positions * row, row, height, width};
  }

  __device__ __forceinline__ Pair at(int position) const {
    return load_pair(reinterpret_cast<const T*>(shared + (begin + position * row)));
  }
};

// Stride 1, 3x3: each position of `from` is read once a line of `to`, and adds to three of its
// positions. `taps` are the lane's channels of the first tap.
template <bool kBackward, typename T, typename Emit>
__device__ __forceinline__ void slide_along(const Sizes& s, const Plane<T>& from, const float* taps,
                                            int y, Emit&& emit) {
  Pair weights[3][3];
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    weights[i / 3][i % 3] = load_pair(taps + (kBackward ? 8 - i : i) * kChunk);
  }
  const int top = y - (kBackward ? 2 - s.pad_top : s.pad_top);
  const int left = kBackward ? 2 - s.pad_left : s.pad_left;
  Plane<T> lines[3];
  bool there[3];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    lines[a] = from.behind((top + a) * from.width);
    there[a] = top + a >= 0 && top + a < from.height;
  }
  Pair sums[3] = {};  // of the positions x = step - 2, step - 1, step
#pragma unroll 1
  for (int step = 0; step < s.to_w + 2; ++step) {
    const int column = step - left;
    if (static_cast<unsigned int>(column) < static_cast<unsigned int>(from.width)) {
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        Pair value{};
        if (there[a]) value = lines[a].at(column);
#pragma unroll
        for (int b = 0; b < 3; ++b) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            sums[2 - b].value[c] += value.value[c] * weights[a][b].value[c];
          }
        }
      }
    }
    if (step >= 2) emit(sums[0]);
    sums[0] = sums[1];
    sums[1] = sums[2];
    sums[2] = Pair{};
  }
}

// Along one axis, the taps that a position has within the image: the first one, the position that
// it reads, and how many there are. Forward they are neighbours, and so are their positions;
// backward they are a stride apart, and their positions go back one by one.
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
    const int behind = axis.position - (size - 1);  // taps whose windows lie behind the image
    if (behind > 0) {
      axis.tap += behind * stride;
      axis.position -= behind;
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

// Any kernel and stride.
template <bool kBackward, typename T, typename Emit>
__device__ __forceinline__ void gather_along(const Sizes& s, const Plane<T>& from,
                                             const float* taps, int y, Emit&& emit) {
  const int on = kBackward ? -1 : 1;
  const int apart_h = kBackward ? s.stride_h : 1;
  const int apart_w = kBackward ? s.stride_w : 1;
  const Axis down = axis_of<kBackward>(y, s.kernel_h, s.stride_h, s.pad_top, from.height);
#pragma unroll 1
  for (int x = 0; x < s.to_w; ++x) {
    const Axis right = axis_of<kBackward>(x, s.kernel_w, s.stride_w, s.pad_left, from.width);
    Pair sum = {};
    for (int a = 0; a < down.count; ++a) {
      const int line = (down.position + on * a) * from.width;
      const int tap = (down.tap + apart_h * a) * s.kernel_w;
      for (int b = 0; b < right.count; ++b) {
        const Pair value = from.at(line + right.position + on * b);
        const Pair weight = load_pair(taps + (tap + right.tap + apart_w * b) * kChunk);
#pragma unroll
        for (int c = 0; c < 2; ++c) sum.value[c] += value.value[c] * weight.value[c];
      }
    }
    emit(sum);
  }
}

}  // namespace sign_ext::block
