// Where data lie in the shared memory of an on-chip network, and which element of which matrix a
// lane holds: plain index arithmetic, tested on its own (csrc/tests/onchip_layout_test.cpp).
//
// Values, cotangents and weights are rows of bfloat16 channels, the number of channels a multiple
// of 8. A chunk is 8 channels: 16 bytes, one row of the 8x8 matrices that ldmatrix loads.

#pragma once

#include <cstdint>

#include "common/activation.h"

namespace sign_ext::onchip {

#define SIGN_EXT_INDEX SIGN_EXT_HOST_DEVICE constexpr

constexpr int kChunk = 8;        // channels
constexpr int kChunkBytes = 16;  // of bfloat16
constexpr int kWindow = 4;       // positions of a 2x2 window

SIGN_EXT_INDEX int divide_up(int a, int b) { return (a + b - 1) / b; }

// ldmatrix reads 8 rows at once, so they should lie in different banks. The chunks of each 128-byte
// line are therefore permuted by the line's number, shifted so that it counts the rows that are
// read together. `byte` is relative to the start of the array, which is 128-byte aligned.
SIGN_EXT_INDEX int swizzled(int byte, int shift) { return byte ^ ((byte >> (3 + shift)) & 0x70); }

// The shift for an array of rows of `channels`, of which 8 rows at distance `apart` (1, or 2 if
// windows are pooled) are read together.
SIGN_EXT_INDEX int shift_for(int channels, int apart) {
  int shift = 0;
  for (int lines = channels * apart / 64; lines > 1; lines /= 2) ++shift;
  return shift;
}

// The byte of channel c of row r in an array of rows of `channels`.
SIGN_EXT_INDEX int element_at(int row, int channel, int channels, int shift) {
  return swizzled((row * channels + channel) * 2, shift);
}

// Rows of a product are output positions. Without pooling they are in memory order. With pooling,
// 32 rows are 8 windows of 2x2, arranged so that one lane holds all four positions of a window: in
// the accumulators of fragments 2i and 2i + 1, rows g and g + 8.
struct PooledRow {
  int window;    // which of the pooled outputs
  int position;  // 2 dy + dx
};
SIGN_EXT_INDEX PooledRow pooled_row(int m) {
  const int within = m % 32;
  return {m / 32 * 8 + within % 8, within / 16 * 2 + within % 16 / 8};
}

// The number of rows of the product in a layer's forward pass.
SIGN_EXT_INDEX int forward_rows(int out_h, int out_w, bool pooled) {
  return pooled ? (out_h / 2) * (out_w / 2) * kWindow : out_h * out_w;
}

// The number of rows of a layer's weights, (tap, input channel): a multiple of 16, padded with
// zeros.
SIGN_EXT_INDEX int weight_rows(int taps, int in_channels) {
  return divide_up(taps * in_channels, 16) * 16;
}

// The row, and which of two chunks, whose address a lane gives when the warp loads fragments: a
// 16x16 fragment of A whose rows are rows in memory;
SIGN_EXT_INDEX int a_row(int lane) { return lane % 16; }
SIGN_EXT_INDEX int a_chunk(int lane) { return lane / 16; }
// two adjacent 16x8 fragments of B whose rows are rows in memory (loaded transposed);
SIGN_EXT_INDEX int b_row(int lane) { return lane % 16; }
SIGN_EXT_INDEX int b_row_column_chunk(int lane) { return lane / 16; }
// the same with B's columns as rows in memory.
SIGN_EXT_INDEX int b_column(int lane) { return lane % 8 + lane / 16 * 8; }
SIGN_EXT_INDEX int b_column_chunk(int lane) { return lane / 8 % 2; }

// The bits kept for a layer's output are planes of one bit per element: whether the activation
// passes and, with pooling, the low and the high bit of the position of the maximum. A position has
// `kept` planes one after another, and a plane one byte per chunk, so that the chunks of a tile are
// adjacent bytes. A layer's planes start at a multiple of 4 bytes.
constexpr int kPassPlane = 0;
constexpr int kLowPlane = 1;
constexpr int kHighPlane = 2;
SIGN_EXT_INDEX int residue_at(int pixel, int plane, int chunk, int chunks, int kept) {
  return (pixel * kept + plane) * chunks + chunk;
}

// The bytes of a layer's planes, rounded up to whole words.
SIGN_EXT_INDEX int residue_bytes(int pixels, int channels, int kept) {
  return divide_up(pixels * (channels / kChunk) * kept, 4) * 4;
}

// Lane t of a position has bits 2t and 2t + 1 of each byte of a plane's word: the bit of the
// element of channel c of the j-th chunk, before the shift by 2t.
SIGN_EXT_INDEX unsigned int plane_bit(int j, int c) { return 1u << (kChunk * j + c); }

// A word's bits 2t, and its bits 2t + 1, as the highest of each byte.
struct PairBits {
  unsigned int first, second;
};
SIGN_EXT_INDEX PairBits pair_bits(unsigned int word, int t) {
  return {word << (7 - 2 * t), word << (6 - 2 * t)};
}

// The selector with which `permuted` (onchip_rows.cuh) turns the pair bits of byte j into a mask of
// two 16-bit halves: 8 selects the highest bit of a byte, eightfold.
SIGN_EXT_INDEX unsigned int mask_selector(int j) {
  const unsigned int first = 8u | static_cast<unsigned int>(j);
  const unsigned int second = first + 4;
  return first | first << 4 | second << 8 | second << 12;
}

// Division of a number below 2^16 by a number below 2^16, as a multiplication.
struct Divider {
  unsigned int over;  // 2^32 / by, rounded up; 0 if by is 1
};
SIGN_EXT_INDEX Divider divider(int by) {
  return {by == 1 ? 0 : 0xffffffffu / static_cast<unsigned int>(by) + 1};
}
SIGN_EXT_INDEX int quotient(int n, Divider by) {
  const std::uint64_t product = std::uint64_t{static_cast<unsigned int>(n)} * by.over;
  return by.over == 0 ? n : static_cast<int>(product >> 32);
}

// What a position reads, along one axis. Forward, an output reads input `out * stride - pad + tap`;
// backward, an input is read by output `(in + pad - tap) / stride` if that is whole. From a start
// that depends on the position, both move by an offset that depends only on the tap:
//
//   forward   forward_begin + tap                backward   backward_begin - tap / stride
//
// and a mask says for each tap whether the other end lies in the image.
constexpr int kMostTaps = 16;

// Bits low to high - 1, of kMostTaps.
SIGN_EXT_INDEX unsigned int bits_between(int low, int high) {
  low = low < 0 ? 0 : low > kMostTaps ? kMostTaps : low;
  high = high < low ? low : high > kMostTaps ? kMostTaps : high;
  return (1u << high) - (1u << low);
}

SIGN_EXT_INDEX int forward_begin(int out, int stride, int pad) { return out * stride - pad; }
SIGN_EXT_INDEX unsigned int forward_taps(int out, int kernel, int stride, int pad, int size) {
  const int begin = forward_begin(out, stride, pad);
  return bits_between(-begin, size - begin) & bits_between(0, kernel);
}

// Division of a tap's number by a stride, as a multiplication.
SIGN_EXT_INDEX int one_over(int stride) { return (stride == 1 ? 1 << 16 : (1 << 16) / stride) + 1; }
SIGN_EXT_INDEX int times(int tap, int one_over_stride) { return tap * one_over_stride >> 16; }

// A stride of the backward pass, for all positions of a tile.
struct Stride {
  int size;
  Divider by;
  unsigned int taps;  // every size-th one, beginning with tap 0
};
SIGN_EXT_INDEX Stride stride_of(int size) {
  Stride stride{size, {0}, (1u << kMostTaps) - 1};
  if (size > 1) {
    stride.by = divider(size);
    stride.taps = 0;
    for (int tap = 0; tap < kMostTaps; tap += size) stride.taps |= 1u << tap;
  }
  return stride;
}

SIGN_EXT_INDEX int backward_begin(int in, const Stride& stride, int pad) {
  return quotient(in + pad, stride.by);
}
SIGN_EXT_INDEX unsigned int backward_taps(int in, int kernel, const Stride& stride, int pad,
                                          int outs) {
  const int reach = in + pad;  // of tap 0
  // Without a sign, since a negative reach, whose taps are none, has no quotient.
  const auto whole = static_cast<unsigned int>(quotient(reach, stride.by)) *
                     static_cast<unsigned int>(stride.size);
  const int first = static_cast<int>(static_cast<unsigned int>(reach) - whole);
  const unsigned int taps = bits_between(reach - (outs - 1) * stride.size, reach + 1) &
                            bits_between(0, kernel) & stride.taps << (first & (kMostTaps - 1));
  return reach < 0 || first >= kMostTaps ? 0 : taps;
}

}  // namespace sign_ext::onchip
