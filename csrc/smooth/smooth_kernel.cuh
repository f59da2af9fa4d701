// The CUDA kernels of smooth and smooth_backward (contract, bytes and floor: smooth.h) and the
// selection of their launches. There are no torch headers and no runtime calls here: nvcc compiles
// this source for the device, and the host compiler compiles the same source for csrc/tests.
//
// A thread owns 8 adjacent elements. It moves 8 to 16 bytes in an access if all arrays are 16-byte
// aligned, otherwise one element; the up to 7 elements past the last multiple of 8 are a launch of
// their own, so that no thread of the other one has to count. A thread reads all of its elements
// before it writes any, so `out` may be an input.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/channel_groups.cuh"
#include "smooth/smooth.h"

namespace sign_ext {

// A group's integers; in one access if kWhole.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_integers(const T* from, int count, T (&values)[8]) {
  if constexpr (kWhole) {
    const Pack<T, 8> pack = load_pack<T, 8>(from);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = pack.values[i];
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = i < count ? from[i] : T{0};
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store_integers(T* to, int count, const T (&values)[8]) {
  if constexpr (kWhole) {
    Pack<T, 8> pack;
#pragma unroll
    for (int i = 0; i < 8; ++i) pack.values[i] = values[i];
    store_pack(to, pack);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) to[i] = values[i];
    }
  }
}

// A thread's first element, and how many there are of its 8; 0: no work.
struct SmoothPlace {
  std::uint32_t at;
  int count;
};

template <bool kWhole>
__device__ __forceinline__ SmoothPlace smooth_place(std::uint32_t n) {
  const std::uint32_t at = (blockIdx.x * kGroupThreads + threadIdx.x) * 8;
  const std::uint32_t left = kWhole ? 8 : n - at;
  return {at, at >= n ? 0 : left < 8 ? static_cast<int>(left) : 8};
}

template <SmoothFunction kFunction, typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    smooth_kernel(const T* x, T* out, std::int16_t* __restrict__ derivative,
                  std::uint8_t* __restrict__ fraction, std::uint32_t n) {
  const SmoothCode code = smooth_code(kFunction);
  const auto [at, count] = smooth_place<kWhole>(n);
  if (count == 0) return;
  float v[8];
  std::int16_t whole[8];
  std::uint8_t parts[8];
  load_group<kWhole>(x + at, count, v);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const SmoothResult<float> result = smooth_of<kFunction>(v[i]);
    const SmoothSteps steps = smooth_coded(result.derivative, code, fraction != nullptr);
    v[i] = result.value;
    whole[i] = steps.whole;
    parts[i] = steps.fraction;
  }
  store_group<kWhole>(out + at, count, v);
  if (derivative == nullptr) return;
  store_integers<kWhole>(derivative + at, count, whole);
  if (fraction != nullptr) store_integers<kWhole>(fraction + at, count, parts);
}

// The code is all that distinguishes the functions here.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    smooth_backward_kernel(const T* g, const std::int16_t* __restrict__ derivative,
                           const std::uint8_t* __restrict__ fraction, T* out, const T* other,
                           std::uint32_t n, SmoothCode code, float one_over_scale) {
  const auto [at, count] = smooth_place<kWhole>(n);
  if (count == 0) return;
  float v[8];
  float more[8];
  std::int16_t whole[8];
  std::uint8_t parts[8] = {};
  load_group<kWhole>(g + at, count, v);
  load_integers<kWhole>(derivative + at, count, whole);
  if (fraction != nullptr) load_integers<kWhole>(fraction + at, count, parts);
  load_group_or<kWhole>(kNoShift, other, at, count, more);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] = v[i] * smooth_decoded({whole[i], parts[i]}, code, one_over_scale) + more[i];
  }
  store_group<kWhole>(out + at, count, v);
}

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
template <typename T, typename Launch>
void smooth_choose_function(const SmoothArgs& args, Launch&& launch) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  const bool whole = args.count % 8 == 0 && on_16_bytes(x) && on_16_bytes(out) &&
                     on_16_bytes(args.derivative) && on_16_bytes(args.fraction);
  with_smooth_function(args.function, [&](auto function) {
    constexpr SmoothFunction kFunction = decltype(function)::value;
    if (whole) {
      launch(&smooth_kernel<kFunction, T, true>, x, out);
    } else {
      launch(&smooth_kernel<kFunction, T, false>, x, out);
    }
  });
}

template <typename Launch>
void smooth_choose(const SmoothArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    smooth_choose_function<__nv_bfloat16>(args, launch);
  } else {
    smooth_choose_function<float>(args, launch);
  }
}

template <typename T, typename Launch>
void smooth_backward_choose_width(const SmoothBackwardArgs& args, Launch&& launch) {
  const auto* g = static_cast<const T*>(args.g);
  const auto* other = static_cast<const T*>(args.other);
  auto* out = static_cast<T*>(args.out);
  const bool whole = args.count % 8 == 0 && on_16_bytes(g) && on_16_bytes(out) &&
                     on_16_bytes(other) && on_16_bytes(args.derivative) &&
                     on_16_bytes(args.fraction);
  if (whole) {
    launch(&smooth_backward_kernel<T, true>, g, out, other);
  } else {
    launch(&smooth_backward_kernel<T, false>, g, out, other);
  }
}

template <typename Launch>
void smooth_backward_choose(const SmoothBackwardArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    smooth_backward_choose_width<__nv_bfloat16>(args, launch);
  } else {
    smooth_backward_choose_width<float>(args, launch);
  }
}

// Calls part(first, count) for launches of at most `most` elements (at least 16): multiples of 16,
// so that what is aligned stays aligned, then the last elements past a multiple of 8.
template <typename Part>
void smooth_for_each_part(std::int64_t count, std::int64_t most, Part&& part) {
  const std::int64_t eights = count / 8 * 8;
  const std::int64_t per_launch = most / 16 * 16;
  for (std::int64_t first = 0; first < eights; first += per_launch) {
    part(first, std::min(per_launch, eights - first));
  }
  if (eights < count) part(eights, count - eights);
}

inline unsigned int smooth_blocks(std::int64_t count) {
  return static_cast<unsigned int>((count + 8 * kGroupThreads - 1) / (8 * kGroupThreads));
}

// Calls launch(blocks, kernel, its arguments...) for each launch of at most `most` elements. The
// launchers in the .cu file and the host tests both launch through these.
template <typename Launch>
void smooth_for_each_launch(const SmoothArgs& args, std::int64_t most, Launch&& launch) {
  smooth_for_each_part(args.count, most, [&](std::int64_t first, std::int64_t count) {
    SmoothArgs a = args;
    a.count = count;
    a.x = advanced(args.x, args.type, first);
    a.out = advanced(args.out, args.type, first);
    a.derivative = advanced(args.derivative, first);
    a.fraction = advanced(args.fraction, first);
    smooth_choose(a, [&](auto kernel, auto x, auto out) {
      launch(smooth_blocks(count), kernel, x, out, a.derivative, a.fraction,
             static_cast<std::uint32_t>(count));
    });
  });
}

template <typename Launch>
void smooth_backward_for_each_launch(const SmoothBackwardArgs& args, std::int64_t most,
                                     Launch&& launch) {
  const SmoothCode code = smooth_code(args.function);
  smooth_for_each_part(args.count, most, [&](std::int64_t first, std::int64_t count) {
    SmoothBackwardArgs a = args;
    a.count = count;
    a.g = advanced(args.g, args.type, first);
    a.other = advanced(args.other, args.type, first);
    a.out = advanced(args.out, args.type, first);
    a.derivative = advanced(args.derivative, first);
    a.fraction = advanced(args.fraction, first);
    smooth_backward_choose(a, [&](auto kernel, auto g, auto out, auto other) {
      launch(smooth_blocks(count), kernel, g, a.derivative, a.fraction, out, other,
             static_cast<std::uint32_t>(count), code, 1.0f / code.scale);
    });
  });
}

}  // namespace sign_ext
