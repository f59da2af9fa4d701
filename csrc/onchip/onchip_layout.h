// Where data lie in the shared memory of an on-chip network, and which element of which matrix a
// lane holds: plain index arithmetic, tested on its own (csrc/tests/onchip_layout_test.cpp).
//
// Values, cotangents and weights are rows of bfloat16 channels, the number of channels a multiple
// of 8. A chunk is 8 channels: 16 bytes, one row of the 8x8 matrices that ldmatrix loads.

#pragma once

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

// The bits kept for a layer's output, in whole bytes per chunk of a position: 1 bit for whether the
// activation passes and, with pooling, 2 for the position of the maximum.
SIGN_EXT_INDEX int residue_at(int pixel, int chunk, int chunks, int kept) {
  return (pixel * chunks + chunk) * kept;
}

// The bits of a lane's two channels of a chunk, at their place in the word whose bytes are those
// bits.
SIGN_EXT_INDEX unsigned int residue_word(int t, bool pass0, bool pass1, int winner0, int winner1) {
  const unsigned int pass = (pass0 ? 1u : 0u) | (pass1 ? 2u : 0u);
  const unsigned int low = (winner0 & 1 ? 1u : 0u) | (winner1 & 1 ? 2u : 0u);
  const unsigned int high = (winner0 & 2 ? 1u : 0u) | (winner1 & 2 ? 2u : 0u);
  return (pass | low << 8 | high << 16) << (2 * t);
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
SIGN_EXT_INDEX int one_over(int stride) { return (1 << 16) / stride + 1; }
SIGN_EXT_INDEX int times(int tap, int one_over_stride) { return tap * one_over_stride >> 16; }

SIGN_EXT_INDEX int backward_begin(int in, int stride, int pad) {
  return stride == 1 ? in + pad : (in + pad) / stride;
}
SIGN_EXT_INDEX unsigned int backward_taps(int in, int kernel, int stride, int pad, int outs) {
  const int reach = in + pad;  // of tap 0
  if (reach < 0) return 0;
  unsigned int taps = bits_between(reach - (outs - 1) * stride, reach + 1);
  if (stride > 1) {
    unsigned int every = 0;  // one bit every `stride` taps
    for (int tap = reach % stride; tap < kMostTaps; tap += stride) every |= 1u << tap;
    taps &= every;
  }
  return taps & bits_between(0, kernel);
}

}  // namespace sign_ext::onchip
