// The product of a warp: a tile of 16 MT positions by 8 NT channels of a convolution, forward or
// back to its input, as an implicit matrix product. The im2col matrix is never built: a lane gives
// the addresses of the shared-memory rows that its window reads, and rows outside the image all
// read one row of zeros.
//
// The inner dimension is (taps, channels), two chunks of 8 channels per step. One copy of the
// weights, [taps, C_in, C_out], serves both directions: its rows are rows of B forward and columns
// of B backward. Values have a multiple of 16 channels, so a step stays within one tap. Only the
// image may have 8, and then a step covers two taps, one in each half of the warp.

#pragma once

#include "common/tensor_cores.cuh"
#include "onchip/onchip.h"
#include "onchip/onchip_layout.h"

namespace sign_ext::onchip {

constexpr int kStepChannels = 2 * kChunk;

// A layer's arrays, as byte offsets from the start of shared memory.
struct Arrays {
  const unsigned char* shared;
  int rows;  // forward: the input's value; backward: the output's cotangent
  int weights;
  int zeros;
};

// The rows of A whose addresses a lane gives, one for each 16 rows of a tile.
template <int MT>
struct Rows {
  int begin[MT];          // the byte of the row that tap 0 reads, as if it were in the image
  unsigned int taps[MT];  // the taps that are in the image, 16 bits per axis; 0: no row
};

template <int MT>
__device__ __forceinline__ void set_forward_row(const Layer& layer, int i, bool there, int y, int x,
                                                Rows<MT>& rows) {
  const int from = forward_begin(y, layer.stride_h, layer.pad_top) * layer.in_w +
                   forward_begin(x, layer.stride_w, layer.pad_left);
  rows.begin[i] = from * layer.in_c * 2;
  rows.taps[i] = forward_taps(y, layer.kernel_h, layer.stride_h, layer.pad_top, layer.in_h) |
                 forward_taps(x, layer.kernel_w, layer.stride_w, layer.pad_left, layer.in_w)
                     << kMostTaps;
  if (!there) rows.taps[i] = 0;
}

template <int MT>
__device__ __forceinline__ void set_backward_row(const Layer& layer, const Stride& down,
                                                 const Stride& right, int i, bool there, int y,
                                                 int x, Rows<MT>& rows) {
  const int from = backward_begin(y, down, layer.pad_top) * layer.out_w +
                   backward_begin(x, right, layer.pad_left);
  rows.begin[i] = from * layer.out_c * 2;
  rows.taps[i] = backward_taps(y, layer.kernel_h, down, layer.pad_top, layer.out_h) |
                 backward_taps(x, layer.kernel_w, right, layer.pad_left, layer.out_w) << kMostTaps;
  if (!there) rows.taps[i] = 0;
}

// A lane's position in the inner dimension of A: a chunk of channels of a tap.
template <bool kBackward>
class Walk {
 public:
  __device__ __forceinline__ Walk(const Layer& layer, int half)
      : chunks_((kBackward ? layer.out_c : layer.in_c) / kChunk),
        kernel_w_(layer.kernel_w),
        over_stride_h_(one_over(layer.stride_h)),
        over_stride_w_(one_over(layer.stride_w)),
        row_bytes_(chunks_ * kChunkBytes),
        line_bytes_((kBackward ? layer.out_w : layer.in_w) * row_bytes_),
        chunk_(chunks_ > 1 ? half : 0),
        x_(chunks_ > 1 ? 0 : half) {
    wrap();
    find();
  }
  __device__ __forceinline__ void next() {
    chunk_ += 2;
    byte_ += 2 * kChunkBytes;
    if (chunk_ < chunks_) return;
    x_ += chunks_ > 1 ? 1 : 2;
    chunk_ = chunks_ > 1 ? chunk_ - chunks_ : 0;
    wrap();
    find();
  }
  // The offset in bytes from a row's `begin`, and the bits that a row's `taps` must have for this
  // tap.
  __device__ __forceinline__ int byte() const { return byte_; }
  __device__ __forceinline__ unsigned int bits() const { return bits_; }

 private:
  __device__ __forceinline__ void wrap() {
    while (x_ >= kernel_w_) {
      x_ -= kernel_w_;
      ++y_;
    }
  }
  __device__ __forceinline__ void find() {
    int down = y_;
    int right = x_;
    if constexpr (kBackward) {
      down = -times(y_, over_stride_h_);
      right = -times(x_, over_stride_w_);
    }
    byte_ = down * line_bytes_ + right * row_bytes_ + chunk_ * kChunkBytes;
    bits_ = 1u << y_ | 1u << (kMostTaps + x_);
  }

  int chunks_, kernel_w_, over_stride_h_, over_stride_w_, row_bytes_, line_bytes_, chunk_, x_;
  int y_ = 0;
  int byte_ = 0;
  unsigned int bits_ = 0;
};

// Iterates over the inner dimension.
template <bool kBackward, int MT, int NT>
class Steps {
 public:
  __device__ __forceinline__ Steps(const Layer& layer, const Arrays& arrays, const Rows<MT>& rows,
                                   int first)
      : arrays_(arrays),
        rows_(rows),
        row_shift_(kBackward ? layer.g_shift : layer.in_shift),
        weight_shift_(layer.weight_shift),
        walk_(layer, a_chunk(lane())) {
    const int out_bytes = layer.out_c * 2;
    if constexpr (kBackward) {
      weight_ = (first + b_column(lane())) * out_bytes + b_column_chunk(lane()) * kChunkBytes;
      across_ = kStepChannels * out_bytes;  // to the next two fragments' columns
      chunks_ = left_in_tap_ = layer.out_c / kStepChannels;
      tap_bytes_ = (layer.in_c - 1) * out_bytes;
    } else {
      weight_ = b_row(lane()) * out_bytes + 2 * first + b_row_column_chunk(lane()) * kChunkBytes;
      across_ = 2 * kChunkBytes;
      down_ = kStepChannels * out_bytes;
    }
  }

  // One step: loads the fragments of B, then takes 16 rows at a time, so that A needs few
  // registers.
  __device__ __forceinline__ void add_to(float (&sums)[MT][NT][4]) {
    unsigned int b[2 * NT];  // registers 2j and 2j + 1 hold the j-th 8 channels
#pragma unroll
    for (int j = 0; j < NT; j += 2) load_b(b, j);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const int byte = arrays_.rows + swizzled(rows_.begin[i] + walk_.byte(), row_shift_);
      const bool there = (rows_.taps[i] & walk_.bits()) == walk_.bits();
      unsigned int a[4];
      load_matrices(a, arrays_.shared, there ? byte : arrays_.zeros);
#pragma unroll
      for (int j = 0; j < NT; ++j) multiply_add(sums[i][j], a, b[2 * j], b[2 * j + 1]);
    }
    walk_.next();
    if constexpr (kBackward) {
      weight_ += 2 * kChunkBytes;
      if (--left_in_tap_ == 0) {
        left_in_tap_ = chunks_;
        weight_ += tap_bytes_;
      }
    } else {
      weight_ += down_;
    }
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x % 32); }

  __device__ __forceinline__ void load_b(unsigned int (&into)[2 * NT], int j) {
    const int byte = arrays_.weights + swizzled(weight_ + j / 2 * across_, weight_shift_);
    unsigned int b[NT == 1 ? 2 : 4];
    if constexpr (kBackward) {
      load_matrices(b, arrays_.shared, byte);
    } else {
      load_transposed(b, arrays_.shared, byte);
    }
#pragma unroll
    for (int i = 0; i < (NT == 1 ? 2 : 4); ++i) into[2 * j + i] = b[i];
  }

  Arrays arrays_;
  const Rows<MT>& rows_;
  int row_shift_, weight_shift_;
  Walk<kBackward> walk_;
  int weight_;
  int across_;
  int down_ = 0, chunks_ = 0, left_in_tap_ = 0, tap_bytes_ = 0;
};

// sums[i][j]: fragment D of the i-th 16 rows and the j-th 8 channels, starting at `first`.
template <bool kBackward, int MT, int NT>
__device__ __forceinline__ void product(const Layer& layer, const Arrays& arrays,
                                        const Rows<MT>& rows, int first, float (&sums)[MT][NT][4]) {
  set_to_zero(sums);
  Steps<kBackward, MT, NT> steps(layer, arrays, rows, first);
  int left = divide_up(layer.kernel_h * layer.kernel_w * (kBackward ? layer.out_c : layer.in_c),
                       kStepChannels);
  for (; left > 0; --left) steps.add_to(sums);
}

__device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int warps() { return threads() / 32; }

// Calls tile.operator()<MT, NT>(first row, first channel) for each tile of this warp. 8 NT divides
// the number of channels, and a tile has 64 rows if that leaves no warp idle, otherwise 32.
template <int kMT, int kNT, typename Tile>
__device__ __forceinline__ void tiles_of(int rows, int channels, Tile&& tile) {
  const int across = channels / (kNT * kChunk);
  const Divider by_across = divider(across);
  const int count = divide_up(rows, 16 * kMT) * across;
  for (int i = static_cast<int>(threadIdx.x / 32); i < count; i += warps()) {
    const int down = quotient(i, by_across);
    tile.template operator()<kMT, kNT>(down * 16 * kMT, (i - down * across) * kNT * kChunk);
  }
}

template <int kNT, typename Tile>
__device__ __forceinline__ void tiles_of_rows(int rows, int channels, Tile&& tile) {
  if (divide_up(rows, 64) * (channels / (kNT * kChunk)) >= warps()) {
    tiles_of<4, kNT>(rows, channels, tile);
  } else {
    tiles_of<2, kNT>(rows, channels, tile);
  }
}

// kLeast: the least NT, 1 if the channels may be the image's, otherwise 2.
template <int kLeast, typename Tile>
__device__ __forceinline__ void for_tiles(int rows, int channels, Tile&& tile) {
  if (channels % (4 * kChunk) == 0) {
    tiles_of_rows<4>(rows, channels, tile);
  } else if (kLeast == 2 || channels % (2 * kChunk) == 0) {
    tiles_of_rows<2>(rows, channels, tile);
  } else {
    tiles_of_rows<kLeast>(rows, channels, tile);
  }
}

}  // namespace sign_ext::onchip
