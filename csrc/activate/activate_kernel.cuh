// The CUDA kernels of activate and pack_mask (contract, bytes and floor: activate.h) and the
// selection of their launches. There are no torch headers and no runtime calls here: nvcc compiles
// this source for the device, and the host compiler compiles the same source for csrc/tests.
//
// A thread owns 8 adjacent channels of a row: one 16-byte access for bfloat16, two for float32, and
// one byte of the mask, if C % 8 == 0 and all arrays are 16-byte aligned; otherwise one access per
// element. Each element is read and written once; the constants come from a cache. A thread reads
// all of its elements before it writes any, so `out` may be x or the residual.

#pragma once

#include <cstdint>

#include "activate/activate.h"
#include "common/activation_kind.cuh"
#include "common/channel_groups.cuh"

namespace sign_ext {

template <typename X, typename Out, ActivationKind kKind, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    activate_kernel(const X* x, Out* out, const float* __restrict__ scale,
                    const float* __restrict__ bias, const Out* residual,
                    std::uint8_t* __restrict__ mask, GroupGrid grid, Activation activation) {
  const Group group = this_group<kWhole>(grid);
  const int count = group.count;
  if (count == 0) return;
  float v[8];
  float other[8];
  float factor[8];
  float shift[8];
  // All loads are issued first, so that they are in flight together.
  load_group<kWhole>(x + group.element, count, v);
  load_group_or<kWhole>(kNoShift, residual, group.element, count, other);
  load_group_or<kWhole>(kNoScale, scale, group.channel, count, factor);
  load_group_or<kWhole>(kNoShift, bias, group.channel, count, shift);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] = activate<kKind>(v[i] * factor[i] + shift[i] + other[i], activation);
  }
  const Eight<Out> stored = narrow_8<Out>(v);
  store_group<kWhole>(out + group.element, count, stored);
  if (mask == nullptr) return;
  widen_8(stored, v);
  mask[group.byte] = mask_byte<kKind>(v, count, activation);
}

template <typename Y, ActivationKind kKind, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    pack_mask_kernel(const Y* __restrict__ y, std::uint8_t* __restrict__ mask, GroupGrid grid,
                     Activation activation) {
  const Group group = this_group<kWhole>(grid);
  if (group.count == 0) return;
  float v[8];
  load_group<kWhole>(y + group.element, group.count, v);
  mask[group.byte] = mask_byte<kKind>(v, group.count, activation);
}

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
template <typename X, typename Out, typename Launch>
void activate_choose_width(const ActivateArgs& args, Launch&& launch) {
  const auto* x = static_cast<const X*>(args.x);
  auto* out = static_cast<Out*>(args.out);
  const auto* residual = static_cast<const Out*>(args.residual);
  const bool whole = args.channels % 8 == 0 && on_16_bytes(x) && on_16_bytes(out) &&
                     on_16_bytes(residual) && on_16_bytes(args.scale) && on_16_bytes(args.bias);
  with_activation_kind(args.activation, [&](auto kind) {
    constexpr ActivationKind kKind = decltype(kind)::value;
    if (whole) {
      launch(&activate_kernel<X, Out, kKind, true>, x, out, residual);
    } else {
      launch(&activate_kernel<X, Out, kKind, false>, x, out, residual);
    }
  });
}

template <typename Launch>
void activate_choose(const ActivateArgs& args, Launch&& launch) {
  if (args.x_type == ElementType::kBFloat16) {
    activate_choose_width<__nv_bfloat16, __nv_bfloat16>(args, launch);
  } else if (args.out_type == ElementType::kBFloat16) {
    activate_choose_width<float, __nv_bfloat16>(args, launch);
  } else {
    activate_choose_width<float, float>(args, launch);
  }
}

template <typename Y, typename Launch>
void pack_mask_choose_width(const PackMaskArgs& args, Launch&& launch) {
  const auto* y = static_cast<const Y*>(args.y);
  const bool whole = args.channels % 8 == 0 && on_16_bytes(y);
  with_activation_kind(args.activation, [&](auto kind) {
    constexpr ActivationKind kKind = decltype(kind)::value;
    if (whole) {
      launch(&pack_mask_kernel<Y, kKind, true>, y);
    } else {
      launch(&pack_mask_kernel<Y, kKind, false>, y);
    }
  });
}

template <typename Launch>
void pack_mask_choose(const PackMaskArgs& args, Launch&& launch) {
  if (args.y_type == ElementType::kBFloat16) {
    pack_mask_choose_width<__nv_bfloat16>(args, launch);
  } else {
    pack_mask_choose_width<float>(args, launch);
  }
}

// Calls launch(blocks, kernel, its arguments...) for each launch of at most `most` elements.
// Returns null, or why that is not possible. The launchers in the .cu file and the host tests both
// launch through these.
template <typename Launch>
const char* activate_for_each_launch(const ActivateArgs& args, std::int64_t most, Launch&& launch) {
  const auto part = [&](const GroupGrid& grid, unsigned int blocks, std::int64_t first) {
    const std::int64_t element = first * args.channels;
    ActivateArgs a = args;
    a.x = advanced(args.x, args.x_type, element);
    a.out = advanced(args.out, args.out_type, element);
    a.residual = advanced(args.residual, args.out_type, element);
    a.mask = advanced(args.mask, first * mask_row_bytes(args.channels));
    activate_choose(a, [&](auto kernel, auto x, auto out, auto residual) {
      launch(blocks, kernel, x, out, a.scale, a.bias, residual, a.mask, grid, a.activation);
    });
  };
  return for_each_group_launch(args.rows, args.channels, 1, most, part);
}

template <typename Launch>
const char* pack_mask_for_each_launch(const PackMaskArgs& args, std::int64_t most,
                                      Launch&& launch) {
  const auto part = [&](const GroupGrid& grid, unsigned int blocks, std::int64_t first) {
    PackMaskArgs a = args;
    a.y = advanced(args.y, args.y_type, first * args.channels);
    a.mask = advanced(args.mask, first * mask_row_bytes(args.channels));
    pack_mask_choose(
        a, [&](auto kernel, auto y) { launch(blocks, kernel, y, a.mask, grid, a.activation); });
  };
  return for_each_group_launch(args.rows, args.channels, 1, most, part);
}

}  // namespace sign_ext
