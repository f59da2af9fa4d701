// The product of a warp: a tile of 16 MT positions by 8 NT channels of a convolution, forward or
// back to its input, as a matrix product whose matrix of windows is never built: a lane names the
// rows of shared memory that its window reads, and rows outside the image are one row of zeros.
//
// The inner dimension is (taps, channels), in chunks of 8 channels, two a step. One copy of the
// weights, [taps, C_in, C_out], serves both directions: its rows are rows of B forward and columns
// of B backward.

#pragma once

#include "common/matrix_unit.cuh"
#include "onchip/onchip.h"
#include "onchip/onchip_layout.h"

namespace sign_ext::onchip {

constexpr int kNowhere = -(1 << 20);  // the place of a row that is none: outside, whatever the tap

// A layer's arrays in shared memory.
struct Arrays {
  const unsigned char* rows;  // forward: the input's value; backward: the output's cotangent
  const unsigned char* weights;
  const unsigned char* zeros;
};

// Walks over (tap, chunk of channels), two chunks a step.
class Walk {
 public:
  __device__ __forceinline__ Walk(int first, int chunks, int kernel_w)
      : chunks_(chunks), kernel_w_(kernel_w), chunk_(first % chunks), tap_(first / chunks) {
    y_ = tap_ / kernel_w;
    x_ = tap_ % kernel_w;
  }
  // Returns whether the tap is another one.
  __device__ __forceinline__ bool next() {
    chunk_ += 2;
    if (chunk_ < chunks_) return false;
    do {
      chunk_ -= chunks_;
      ++tap_;
      if (++x_ == kernel_w_) {
        x_ = 0;
        ++y_;
      }
    } while (chunk_ >= chunks_);
    return true;
  }
  __device__ __forceinline__ int chunk() const { return chunk_; }
  __device__ __forceinline__ int tap() const { return tap_; }
  __device__ __forceinline__ int y() const { return y_; }
  __device__ __forceinline__ int x() const { return x_; }

 private:
  int chunks_, kernel_w_, chunk_, tap_, y_ = 0, x_ = 0;
};

// The bytes at which the rows of A begin that a lane names, for one tap; -1 for zeros.
template <bool kBackward, int MT>
__device__ __forceinline__ void find_rows(const Layer& layer, const int (&y)[MT],
                                          const int (&x)[MT], int ky, int kx, int (&row)[MT]) {
  const int width = kBackward ? layer.out_w : layer.in_w;
  const int row_bytes = 2 * (kBackward ? layer.out_c : layer.in_c);
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    const int from_y = kBackward ? output_of(y[i], ky, layer.stride_h, layer.pad_top, layer.out_h)
                                 : input_of(y[i], ky, layer.stride_h, layer.pad_top, layer.in_h);
    const int from_x = kBackward ? output_of(x[i], kx, layer.stride_w, layer.pad_left, layer.out_w)
                                 : input_of(x[i], kx, layer.stride_w, layer.pad_left, layer.in_w);
    row[i] = from_y < 0 || from_x < 0 ? -1 : (from_y * width + from_x) * row_bytes;
  }
}

// A step's fragments of B: registers 2j and 2j + 1 are those of the j-th 8 channels.
template <bool kBackward, int NT>
__device__ __forceinline__ void load_b(unsigned int (&b)[2 * NT],
                                       const unsigned char* (&from)[NT]) {
  if constexpr (NT == 1) {
    if constexpr (kBackward) {
      load_matrices(b, from[0]);
    } else {
      load_transposed(b, from[0]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < NT / 2; ++j) {
      unsigned int four[4];
      if constexpr (kBackward) {
        load_matrices(four, from[j]);
      } else {
        load_transposed(four, from[j]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) b[4 * j + i] = four[i];
    }
  }
}

// sums[i][j]: fragment D of the i-th 16 rows and the j-th 8 channels from `first` on. (y, x)[i] is
// the place of row a_row(lane) of the i-th 16: forward of the output, backward of the input.
template <bool kBackward, int MT, int NT>
__device__ __forceinline__ void product(const Layer& layer, const Arrays& arrays,
                                        const int (&y)[MT], const int (&x)[MT], int first,
                                        float (&sums)[MT][NT][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int in_c = layer.in_c;
  const int out_c = layer.out_c;
  const int chunks = (kBackward ? out_c : in_c) / kChunk;  // of a tap
  const int count = chunks * layer.kernel_h * layer.kernel_w;
  const int row_shift = kBackward ? layer.g_shift : layer.in_shift;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
    }
  }
  Walk a_walk(a_chunk(lane), chunks, layer.kernel_w);
  Walk b_walk(b_column_chunk(lane), chunks, layer.kernel_w);  // of the backward product
  int row[MT];
  find_rows<kBackward>(layer, y, x, a_walk.y(), a_walk.x(), row);
  for (int step = 0; step < count; step += 2) {
    const bool a_inside = step + a_chunk(lane) < count;
    unsigned int a[MT][4];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const int byte = row[i] + a_walk.chunk() * kChunkBytes;
      const bool there = a_inside && row[i] >= 0;
      load_matrices(a[i], there ? arrays.rows + swizzled(byte, row_shift) : arrays.zeros);
    }
    const unsigned char* from[NT];  // of two fragments, so half of them for NT > 1
#pragma unroll
    for (int j = 0; j < NT; j += 2) {
      const unsigned char*& here = from[j / 2];
      if constexpr (kBackward) {
        const int column = first + j * kChunk + b_column(lane);
        const int at = (b_walk.tap() * in_c + column) * out_c + b_walk.chunk() * kChunk;
        here = step + b_column_chunk(lane) < count
                   ? arrays.weights + swizzled(2 * at, layer.weight_shift)
                   : arrays.zeros;
      } else {
        const int r = step * kChunk + b_row(lane);
        const int at = r * out_c + first + (j + b_row_column_chunk(lane)) * kChunk;
        here = r < count * kChunk ? arrays.weights + swizzled(2 * at, layer.weight_shift)
                                  : arrays.zeros;
      }
    }
    unsigned int b[2 * NT];
    load_b<kBackward, NT>(b, from);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int j = 0; j < NT; ++j) multiply_add(sums[i][j], a[i], b[2 * j], b[2 * j + 1]);
    }
    if (a_walk.next()) find_rows<kBackward>(layer, y, x, a_walk.y(), a_walk.x(), row);
    b_walk.next();
  }
}

__device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int warps() { return threads() / 32; }

// Calls tile(std::integral_constant of MT, of NT, first row, first channel) for each tile of this
// warp: 8 NT channels divide the layer's, and 64 rows are taken where that leaves no warp idle.
template <int kMT, int kNT, typename Tile>
__device__ __forceinline__ void tiles_of(int rows, int channels, Tile&& tile) {
  const int across = channels / (kNT * kChunk);
  const int count = divide_up(rows, 16 * kMT) * across;
  for (int i = static_cast<int>(threadIdx.x / 32); i < count; i += warps()) {
    tile.template operator()<kMT, kNT>(i / across * 16 * kMT, i % across * kNT * kChunk);
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

template <typename Tile>
__device__ __forceinline__ void for_tiles(int rows, int channels, Tile&& tile) {
  if (channels % (4 * kChunk) == 0) {
    tiles_of_rows<4>(rows, channels, tile);
  } else if (channels % (2 * kChunk) == 0) {
    tiles_of_rows<2>(rows, channels, tile);
  } else {
    tiles_of_rows<1>(rows, channels, tile);
  }
}

}  // namespace sign_ext::onchip
