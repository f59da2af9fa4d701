// How an inverted residual is divided into tiles of whole images, and where data lie in the shared
// memory of a thread block. Plain arithmetic, tested on its own
// (csrc/tests/inverted_residual_plan_test.cpp).
//
//   input      rows of from, all their channels
//   expanded   rows of from, 32 channels: e
//   middle     rows of to, 32 channels: d
//   weights    first, second, taps and bias of two chunks: one is used while the other is copied
//
// Rows are padded by a few bytes, so that the 8 rows that ldmatrix reads at once (and the 4 that a
// lane reads of float32 weights) lie in different banks.

#pragma once

#include "common/activation.h"
#include "inverted_residual/inverted_residual.h"

namespace sign_ext::block {

#define SIGN_EXT_BLOCK_INDEX SIGN_EXT_HOST_DEVICE constexpr

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMostRows = 256;  // of a tile, either side
constexpr int kWarpRows = 32;   // of a warp's part of the second product
// The most columns of that part. kNarrow leaves enough registers for two blocks per multiprocessor;
// kWide is for wide outputs.
constexpr int kNarrow = 32;
constexpr int kWide = 64;

SIGN_EXT_BLOCK_INDEX int up_to(int n, int multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Division of a row's number within a tile by a line's or an image's size, as a multiplication.
SIGN_EXT_BLOCK_INDEX int one_over(int n) { return (1 << 16) / n + 1; }
SIGN_EXT_BLOCK_INDEX int quotient(int row, int over) { return row * over >> 16; }

struct Plan {
  int images;                   // of a tile
  int widest;                   // kNarrow or kWide
  int chunks;                   // of expanded channels
  int from_depth;               // channels in, padded: the depth of the first product
  int to_width;                 // channels out, padded
  int from_rows, to_rows;       // positions of a tile, padded
  int warps_across, columns;    // the second product: warps across, and the columns of each
  int over_to_w, over_to_h;     // their reciprocals
  int line_parts, part_length;  // sliding windows: log2 of the parts of a line, positions of each
  int input_row, wide_row, first_row, second_row;    // bytes of a row
  int input_at, expanded_at, middle_at, weights_at;  // bytes from the start of shared memory
  int second_in, taps_in, bias_in, weights_bytes;    // within the weights of one of the two chunks
  int shared_bytes;
};

SIGN_EXT_BLOCK_INDEX int element_bytes(Precision precision) {
  return precision == Precision::kBFloat16 ? 2 : 4;
}

// The plan for tiles of `images` images. Its `images` is 0 if there is no such plan.
SIGN_EXT_BLOCK_INDEX Plan plan_for(const Sizes& s, Precision precision, int images, int widest) {
  Plan p{};
  p.widest = widest;
  const int size = element_bytes(precision);
  const int weight_gap = precision == Precision::kBFloat16 ? 16 : 32;
  p.chunks = up_to(s.expanded, kChunk) / kChunk;
  p.from_depth = up_to(s.from_c, 16);
  p.to_width = up_to(s.to_c, 16);
  if (images > kMostRows || s.from_h * s.from_w > kMostRows || s.to_h * s.to_w > kMostRows)
    return p;
  p.from_rows = up_to(images * s.from_h * s.from_w, 32);
  p.to_rows = up_to(images * s.to_h * s.to_w, 32);
  if (p.from_rows > kMostRows || p.to_rows > kMostRows) return p;
  int down = 1;
  while (down * kWarpRows < p.to_rows) down *= 2;
  p.warps_across = kWarps / down;
  p.columns = up_to((p.to_width + p.warps_across - 1) / p.warps_across, 16);
  if (p.columns > widest) return p;
  p.over_to_w = one_over(s.to_w);
  p.over_to_h = one_over(s.to_h);
  const int lines = images * s.to_h;
  while (lines << p.line_parts < 4 * kWarps && 4 << p.line_parts < s.to_w) ++p.line_parts;
  p.part_length = (s.to_w + (1 << p.line_parts) - 1) >> p.line_parts;
  p.input_row = p.from_depth * size + 16;
  p.wide_row = kChunk * size + 16;
  p.first_row = kChunk * size + weight_gap;
  p.second_row = p.to_width * size + weight_gap;
  p.expanded_at = p.input_at + p.from_rows * p.input_row;
  p.middle_at = p.expanded_at + p.from_rows * p.wide_row;
  p.weights_at = p.middle_at + p.to_rows * p.wide_row;
  p.second_in = p.from_depth * p.first_row;
  p.taps_in = p.second_in + kChunk * p.second_row;
  p.bias_in = p.taps_in + s.kernel_h * s.kernel_w * kChunk * 4;
  p.weights_bytes = p.bias_in + kChunk * 4;
  p.shared_bytes = p.weights_at + 2 * p.weights_bytes;
  p.images = images;
  return p;
}

// As many images per tile as fit while every multiprocessor still gets a tile, and at least as many
// as fill a tile's 32-row minimum.
SIGN_EXT_BLOCK_INDEX Plan plan_of_width(const Sizes& s, Precision precision, int shared_limit,
                                        int processors, int widest) {
  Plan best{};
  const int from = s.from_h * s.from_w;
  const int to = s.to_h * s.to_w;
  const int smaller = from < to ? from : to;
  for (int images = 1; smaller > 0 && images * smaller <= kMostRows; ++images) {
    const Plan plan = plan_for(s, precision, images, widest);
    if (plan.images == 0 || plan.shared_bytes > shared_limit) continue;
    const bool fills = (s.images + images - 1) / images >= processors;
    const bool free = plan.from_rows == best.from_rows && plan.to_rows == best.to_rows;
    if (best.images == 0 || fills || free) best = plan;
  }
  return best;
}

// Two thread blocks share a multiprocessor if tiles leave room for it (each block takes 1 KiB
// more): one computes while the other waits.
SIGN_EXT_BLOCK_INDEX Plan plan_of(const Sizes& s, Precision precision, int shared_limit,
                                  int processors) {
  const int half = (shared_limit + 1024) / 2 - 1024;
  Plan plan = plan_of_width(s, precision, half, processors, kNarrow);
  if (plan.images == 0) plan = plan_of_width(s, precision, shared_limit, processors, kNarrow);
  if (plan.images == 0) plan = plan_of_width(s, precision, shared_limit, processors, kWide);
  return plan;
}

// Whether windows slide along a line, forward and backward: for 3x3 kernels of stride 1, on images
// where most windows have all their taps.
SIGN_EXT_BLOCK_INDEX bool slides(const Sizes& s) {
  return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.from_h > 2 &&
         s.from_w > 2;
}

}  // namespace sign_ext::block
