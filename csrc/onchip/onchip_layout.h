// Where things are in the shared memory of an on-chip network, and which element of which matrix a
// lane holds: plain index arithmetic, tested by itself (csrc/tests/onchip_layout_test.cpp).
//
// Values, cotangents and weights are rows of bfloat16 channels, the number of channels a multiple
// of 8. A chunk is 8 of them: 16 bytes, one row of the 8x8 matrices that the matrix unit loads.

#pragma once

#include "common/activation.h"

namespace sign_ext::onchip {

#define SIGN_EXT_INDEX SIGN_EXT_HOST_DEVICE constexpr

constexpr int kChunk = 8;        // channels
constexpr int kChunkBytes = 16;  // of bfloat16
constexpr int kWindow = 4;       // positions of a 2x2 window

SIGN_EXT_INDEX int divide_up(int a, int b) { return (a + b - 1) / b; }

// The matrix unit reads 8 rows at once, so they should lie in different banks. The chunks of a line
// of 128 bytes therefore change places by the line's number, shifted so that it counts the rows
// that are read together. `byte` is counted from the array's beginning, which lies on 128 bytes.
SIGN_EXT_INDEX int swizzled(int byte, int shift) { return byte ^ ((byte >> (3 + shift)) & 0x70); }

// The shift of an array of rows of `channels`, of which 8 that are `apart` (1, or 2 where windows
// are pooled) are read together.
SIGN_EXT_INDEX int shift_for(int channels, int apart) {
  int shift = 0;
  for (int lines = channels * apart / 64; lines > 1; lines /= 2) ++shift;
  return shift;
}

// The byte of channel c of row r in an array of rows of `channels`.
SIGN_EXT_INDEX int element_at(int row, int channel, int channels, int shift) {
  return swizzled((row * channels + channel) * 2, shift);
}

// Rows of a product are output positions. Without pooling they are in memory's order. With pooling
// 32 rows are 8 windows of 2x2, such that one lane holds all four positions of a window: in the
// accumulators of fragments 2i and 2i + 1, rows g and g + 8.
struct PooledRow {
  int window;    // which of the pooled outputs
  int position;  // 2 dy + dx
};
SIGN_EXT_INDEX PooledRow pooled_row(int m) {
  const int within = m % 32;
  return {m / 32 * 8 + within % 8, within / 16 * 2 + within % 16 / 8};
}

// Rows of the product of a layer's forward pass.
SIGN_EXT_INDEX int forward_rows(int out_h, int out_w, bool pooled) {
  return pooled ? (out_h / 2) * (out_w / 2) * kWindow : out_h * out_w;
}

// Which row, and which of two chunks, a lane names when the warp loads fragments:
// a 16x16 fragment of A whose rows lie in memory one by one,
SIGN_EXT_INDEX int a_row(int lane) { return lane % 16; }
SIGN_EXT_INDEX int a_chunk(int lane) { return lane / 16; }
// two 16x8 fragments of B side by side, from memory whose rows are B's rows (loaded transposed),
SIGN_EXT_INDEX int b_row(int lane) { return lane % 16; }
SIGN_EXT_INDEX int b_row_column_chunk(int lane) { return lane / 16; }
// the same from memory whose rows are B's columns.
SIGN_EXT_INDEX int b_column(int lane) { return lane % 8 + lane / 16 * 8; }
SIGN_EXT_INDEX int b_column_chunk(int lane) { return lane / 8 % 2; }

// Bits that say what a layer's output kept, in whole bytes for each chunk of a position: 1 whether
// the activation passes; with pooling two more, the position of the maximum.
SIGN_EXT_INDEX int residue_at(int pixel, int chunk, int chunks, int kept) {
  return (pixel * chunks + chunk) * kept;
}

// The place of a lane's two channels of a chunk in the word whose bytes are those bits.
SIGN_EXT_INDEX unsigned int residue_word(int t, bool pass0, bool pass1, int winner0, int winner1) {
  const unsigned int pass = (pass0 ? 1u : 0u) | (pass1 ? 2u : 0u);
  const unsigned int low = (winner0 & 1 ? 1u : 0u) | (winner1 & 1 ? 2u : 0u);
  const unsigned int high = (winner0 & 2 ? 1u : 0u) | (winner1 & 2 ? 2u : 0u);
  return (pass | low << 8 | high << 16) << (2 * t);
}

// A position of the other end of a window: forward from an output to the input, backward from an
// input to the output; -1 where there is none. `tap` is a place in the kernel along one axis.
SIGN_EXT_INDEX int input_of(int out, int tap, int stride, int pad, int size) {
  const int in = out * stride - pad + tap;
  return in >= 0 && in < size ? in : -1;
}
SIGN_EXT_INDEX int output_of(int in, int tap, int stride, int pad, int size) {
  const int scaled = in + pad - tap;
  if (scaled < 0) return -1;
  if (stride == 1) return scaled < size ? scaled : -1;
  return scaled % stride == 0 && scaled / stride < size ? scaled / stride : -1;
}

}  // namespace sign_ext::onchip
