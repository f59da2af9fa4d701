// The CUDA kernel of masked_cotangent (contract, bytes and floor: masked_cotangent.h) and the
// selection of its launch. There are no torch headers and no runtime calls here: nvcc compiles this
// source for the device, and the host compiler compiles the same source for csrc/tests.
//
// A thread owns 8 adjacent channels of a row: one 16-byte access for bfloat16, two for float32, and
// one byte of the mask, if C % 8 == 0 and all arrays are 16-byte aligned; otherwise one access per
// element. Each element is read and written once; the scale comes from a cache. A thread reads all
// of its elements before it writes any, so `out` may be g or other.

#pragma once

#include <cstdint>

#include "common/channel_groups.cuh"
#include "masked_cotangent/masked_cotangent.h"

namespace sign_ext {

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    masked_cotangent_kernel(const T* g, T* out, const T* other,
                            const std::uint8_t* __restrict__ mask, const float* __restrict__ scale,
                            GroupGrid grid, float slope) {
  const Group group = this_group<kWhole>(grid);
  const int count = group.count;
  if (count == 0) return;
  float v[8];
  float more[8];
  float factor[8];
  // All loads are issued first, so that they are in flight together.
  load_group<kWhole>(g + group.element, count, v);
  load_group_or<kWhole>(kNoShift, other, group.element, count, more);
  const unsigned int bits = mask != nullptr ? mask[group.byte] : 0xffu;
  load_group_or<kWhole>(kNoScale, scale, group.channel, count, factor);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] = pull_back(v[i] + more[i], (bits >> i & 1u) != 0, slope) * factor[i];
  }
  store_group<kWhole>(out + group.element, count, v);
}

// Calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
template <typename T, typename Launch>
void masked_cotangent_choose_width(const MaskedCotangentArgs& args, Launch&& launch) {
  const auto* g = static_cast<const T*>(args.g);
  auto* out = static_cast<T*>(args.out);
  const auto* other = static_cast<const T*>(args.other);
  if (args.channels % 8 == 0 && on_16_bytes(g) && on_16_bytes(out) && on_16_bytes(other) &&
      on_16_bytes(args.scale)) {
    launch(&masked_cotangent_kernel<T, true>, g, out, other);
  } else {
    launch(&masked_cotangent_kernel<T, false>, g, out, other);
  }
}

template <typename Launch>
void masked_cotangent_choose(const MaskedCotangentArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    masked_cotangent_choose_width<__nv_bfloat16>(args, launch);
  } else {
    masked_cotangent_choose_width<float>(args, launch);
  }
}

// Calls launch(blocks, kernel, its arguments...) for each launch of at most `most` elements.
// Returns null, or why that is not possible. The launcher in the .cu file and the host tests both
// launch through this.
template <typename Launch>
const char* masked_cotangent_for_each_launch(const MaskedCotangentArgs& args, std::int64_t most,
                                             Launch&& launch) {
  const auto part = [&](const GroupGrid& grid, unsigned int blocks, std::int64_t first) {
    const std::int64_t element = first * args.channels;
    MaskedCotangentArgs a = args;
    a.g = advanced(args.g, args.type, element);
    a.out = advanced(args.out, args.type, element);
    a.other = advanced(args.other, args.type, element);
    a.mask = advanced(args.mask, first * mask_row_bytes(args.channels));
    masked_cotangent_choose(a, [&](auto kernel, auto g, auto out, auto other) {
      launch(blocks, kernel, g, out, other, a.mask, a.scale, grid, a.slope);
    });
  };
  return for_each_group_launch(args.rows, args.channels, 1, most, part);
}

}  // namespace sign_ext
