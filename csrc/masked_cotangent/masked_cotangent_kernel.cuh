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
                            std::int64_t rows, std::int64_t channels, float slope) {
  for (ChannelGroups groups(rows, channels); groups.has_one(); groups.next()) {
    const std::int64_t element = groups.element();
    const int count = groups.count();
    float v[8];
    float more[8];
    float factor[8];
    // All loads are issued first, so that they are in flight together.
    load_group<kWhole>(g + element, count, v);
    if (other != nullptr) load_group<kWhole>(other + element, count, more);
    const unsigned int bits = mask != nullptr ? mask[groups.byte()] : 0xffu;
    if (scale != nullptr) load_group<kWhole>(scale + groups.channel(), count, factor);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (other != nullptr) v[i] += more[i];
      v[i] = pull_back(v[i], (bits >> i & 1u) != 0, slope);
      if (scale != nullptr) v[i] *= factor[i];
    }
    store_group<kWhole>(out + element, count, v);
  }
}

// Calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments. The
// launcher in the .cu file and the host tests both select through this.
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

}  // namespace sign_ext
