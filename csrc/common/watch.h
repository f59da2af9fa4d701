// What the update operators report about their steps to a caller that never synchronizes with the
// device.
//
//   watch[0] <- max(watch[0], |delta|),  watch[1] <- max(watch[1], |q|)     q: p before the clamp
//   counts[0] <- counts[0] + 1, the steps taken
//   counts[1] <- min(counts[1], counts[0]) if a value of the watch is not finite
//   counts[2] is 0 between calls; during one, the number of blocks of the CUDA launch that are done
//
// The maxima compare float bits as integers, which orders non-negative floats and puts NaN above
// infinity. So NaN stays, and the result does not depend on the order.

#pragma once

#include <cstdint>

namespace sign_ext {

constexpr std::int32_t kMagnitudeBits = 0x7fffffff;
constexpr std::int32_t kInfinityBits = 0x7f800000;
constexpr int kCounts = 3;

}  // namespace sign_ext
