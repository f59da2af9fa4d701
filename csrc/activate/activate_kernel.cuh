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
#include "common/channel_groups.cuh"

namespace sign_ext {

// The byte of a bit mask for the first `count` of these values.
__device__ __forceinline__ std::uint8_t byte_of_bits(const float (&y)[8], int count,
                                                     const Activation& a) {
  unsigned int bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) bits |= (i < count && passes(y[i], a) ? 1u : 0u) << i;
  return static_cast<std::uint8_t>(bits);
}

template <typename X, typename Out, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    activate_kernel(const X* x, Out* out, const float* __restrict__ scale,
                    const float* __restrict__ bias, const Out* residual,
                    std::uint8_t* __restrict__ mask, std::int64_t rows, std::int64_t channels,
                    Activation activation) {
  for (ChannelGroups groups(rows, channels); groups.has_one(); groups.next()) {
    const std::int64_t element = groups.element();
    const int count = groups.count();
    float v[8];
    float other[8];
    float factor[8];
    float shift[8];
    // All loads are issued first, so that they are in flight together.
    load_group<kWhole>(x + element, count, v);
    if (residual != nullptr) load_group<kWhole>(residual + element, count, other);
    if (scale != nullptr) load_group<kWhole>(scale + groups.channel(), count, factor);
    if (bias != nullptr) load_group<kWhole>(bias + groups.channel(), count, shift);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (scale != nullptr) v[i] *= factor[i];
      if (bias != nullptr) v[i] += shift[i];
      if (residual != nullptr) v[i] += other[i];
      v[i] = widen(narrow<Out>(activate(v[i], activation)));
    }
    store_group<kWhole>(out + element, count, v);
    if (mask != nullptr) mask[groups.byte()] = byte_of_bits(v, count, activation);
  }
}

template <typename Y, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    pack_mask_kernel(const Y* __restrict__ y, std::uint8_t* __restrict__ mask, std::int64_t rows,
                     std::int64_t channels, Activation activation) {
  for (ChannelGroups groups(rows, channels); groups.has_one(); groups.next()) {
    const int count = groups.count();
    float v[8];
    load_group<kWhole>(y + groups.element(), count, v);
    mask[groups.byte()] = byte_of_bits(v, count, activation);
  }
}

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
// The launchers in the .cu file and the host tests both select through these.
template <typename X, typename Out, typename Launch>
void activate_choose_width(const ActivateArgs& args, Launch&& launch) {
  const auto* x = static_cast<const X*>(args.x);
  auto* out = static_cast<Out*>(args.out);
  const auto* residual = static_cast<const Out*>(args.residual);
  if (args.channels % 8 == 0 && on_16_bytes(x) && on_16_bytes(out) && on_16_bytes(residual) &&
      on_16_bytes(args.scale) && on_16_bytes(args.bias)) {
    launch(&activate_kernel<X, Out, true>, x, out, residual);
  } else {
    launch(&activate_kernel<X, Out, false>, x, out, residual);
  }
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
  if (args.channels % 8 == 0 && on_16_bytes(y)) {
    launch(&pack_mask_kernel<Y, true>, y);
  } else {
    launch(&pack_mask_kernel<Y, false>, y);
  }
}

template <typename Launch>
void pack_mask_choose(const PackMaskArgs& args, Launch&& launch) {
  if (args.y_type == ElementType::kBFloat16) {
    pack_mask_choose_width<__nv_bfloat16>(args, launch);
  } else {
    pack_mask_choose_width<float>(args, launch);
  }
}

}  // namespace sign_ext
