// The working memory of stem_update_'s CPU kernel while it goes down the rows of an image, and its
// size.
//
// Ring: the rows of g that the current row of the image depends on, masked, as float32, with zeros
// around them, so that the sums need neither masks nor border checks. Each row of g is written
// there once and read for every tap. Channels are rounded up to whole vectors, padded with zeros.

#pragma once

#include <cstddef>
#include <cstdint>

#include "stem_update/stem_update.h"

namespace sign_ext {

constexpr std::int64_t kStemMostPixels = 16;  // that are summed together
constexpr std::int64_t kStemMostSums = 32;

// One tap: its position in a row of the ring, and its weights.
struct StemTap {
  const float* g;
  const float* weight;
};

struct StemPlan {
  std::int64_t channels;  // rounded up
  std::int64_t left;      // columns of zeros before g's first
  std::int64_t columns;   // of a row of the ring
  std::int64_t ring_rows;
  bool pad_weight;  // whether the weights need a copy with their channels rounded up
};

// The plan for vectors of this many lanes.
inline StemPlan stem_plan(const StemUpdateArgs& args, std::int64_t lanes) {
  StemPlan plan{};
  plan.channels = (args.channels + lanes - 1) / lanes * lanes;
  const std::int64_t reach = (args.kernel_w - 1) * args.dilation_w - args.pad_left;
  plan.left = reach > 0 ? (reach + args.stride_w - 1) / args.stride_w : 0;
  plan.columns = plan.left + (args.width - 1 + args.pad_left) / args.stride_w + 1 + kStemMostPixels;
  plan.ring_rows = (args.kernel_h - 1) * args.dilation_h / args.stride_h + 1;
  plan.pad_weight = plan.channels != args.channels;
  return plan;
}

struct StemWorkspace {
  float* ring;         // [ring_rows, columns, channels]
  float* weight;       // [kernel_h * kernel_w * in_channels, channels] where pad_weight
  float* delta;        // [width * in_channels], plus room for one block of sums
  StemTap* taps;       // [kernel_h * kernel_w]
  std::int64_t* rows;  // [ring_rows]: the row of g, of n * out_height, in each slot; -1: none
};

// Lays out the parts starting at `base`, each 64-byte aligned. Returns the bytes they take.
inline std::size_t stem_workspace(const StemUpdateArgs& args, const StemPlan& plan,
                                  std::uintptr_t base, StemWorkspace* workspace) {
  std::size_t used = 0;
  const auto part = [&](auto*& pointer, std::int64_t count) {
    pointer = reinterpret_cast<decltype(+pointer)>(base + used);
    used += (static_cast<std::size_t>(count) * sizeof(*pointer) + 63) / 64 * 64;
  };
  const std::int64_t taps = args.kernel_h * args.kernel_w;
  part(workspace->ring, plan.ring_rows * plan.columns * plan.channels);
  part(workspace->weight, plan.pad_weight ? taps * args.in_channels * plan.channels : 0);
  part(workspace->delta, args.width * args.in_channels + kStemMostSums);
  part(workspace->taps, taps);
  part(workspace->rows, plan.ring_rows);
  return used;
}

}  // namespace sign_ext
