// The windows between the two products, forward and back: a lane has two neighbouring channels and
// goes along a line of positions; 16 lanes have the 32 channels of a chunk.
//
// `emit(x, pair)` is called for each position of the line, by all lanes of a warp together.

#pragma once

#include "inverted_residual/inverted_residual_product.cuh"

namespace sign_ext::block {

// What a lane reads: its channels of the image's first row.
template <typename T>
struct Plane {
  const unsigned char* begin;
  int row;  // bytes of a position
  int height, width;

  __device__ __forceinline__ Pair at(int position) const {
    return load_pair(reinterpret_cast<const T*>(begin + position * row));
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
  Pair sums[3] = {};  // of the positions x = step - 2, step - 1, step
#pragma unroll 1
  for (int step = 0; step < s.to_w + 2; ++step) {
    const int column = step - left;
    if (column >= 0 && column < from.width) {
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        if (top + a < 0 || top + a >= from.height) continue;
        const Pair value = from.at((top + a) * from.width + column);
#pragma unroll
        for (int b = 0; b < 3; ++b) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            sums[2 - b].value[c] += value.value[c] * weights[a][b].value[c];
          }
        }
      }
    }
    if (step >= 2) emit(step - 2, sums[0]);
    sums[0] = sums[1];
    sums[1] = sums[2];
    sums[2] = Pair{};
  }
}

// Along one axis, the first tap that a position has, the position that it reads there, and from tap
// to tap: forward every tap, one position on; backward every stride-th tap, one position back.
struct Axis {
  int tap, position;
};
template <bool kBackward>
__device__ __forceinline__ Axis axis_of(int at, int stride, int pad) {
  if constexpr (kBackward) return {(at + pad) % stride, (at + pad) / stride};
  return {0, at * stride - pad};
}

// Any kernel and stride.
template <bool kBackward, typename T, typename Emit>
__device__ __forceinline__ void gather_along(const Sizes& s, const Plane<T>& from,
                                             const float* taps, int y, Emit&& emit) {
  const int on = kBackward ? -1 : 1;
  const int every_h = kBackward ? s.stride_h : 1;
  const int every_w = kBackward ? s.stride_w : 1;
  const Axis down = axis_of<kBackward>(y, s.stride_h, s.pad_top);
  for (int x = 0; x < s.to_w; ++x) {
    const Axis right = axis_of<kBackward>(x, s.stride_w, s.pad_left);
    Pair sum = {};
    int line = down.position;
    for (int a = down.tap; a < s.kernel_h; a += every_h, line += on) {
      if (line < 0 || line >= from.height) continue;
      int column = right.position;
      for (int b = right.tap; b < s.kernel_w; b += every_w, column += on) {
        if (column < 0 || column >= from.width) continue;
        const Pair value = from.at(line * from.width + column);
        const Pair weight = load_pair(taps + (a * s.kernel_w + b) * kChunk);
#pragma unroll
        for (int c = 0; c < 2; ++c) sum.value[c] += value.value[c] * weight.value[c];
      }
    }
    emit(x, sum);
  }
}

}  // namespace sign_ext::block
