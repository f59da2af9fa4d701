// The CUDA kernels of smooth and smooth_backward (contract, bytes and floor: smooth.h) and the
// selection of their launches. There are no torch headers and no runtime calls here: nvcc compiles
// this source for the device, and the host compiler compiles the same source for csrc/tests.
//
// The elements are taken as rows of 8: a thread owns one at a time and the grid strides over them.
// It moves 8 to 16 bytes in an access if all arrays are 16-byte aligned; otherwise one element. A
// thread reads all of its elements before it writes any, so `out` may be an input.

#pragma once

#include <cstdint>

#include "common/channel_groups.cuh"
#include "smooth/smooth.h"

namespace sign_ext {

// A group's integers; in one access if kWhole and there are 8.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_integers(const T* from, int count, T (&values)[8]) {
  if (kWhole && count == 8) {
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
  if (kWhole && count == 8) {
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

template <bool kWhole, typename T>
__device__ __forceinline__ void load_elements(const T* from, int count, float (&values)[8]) {
  if (kWhole && count == 8) {
    load_8(from, values);
  } else {
    load_up_to_8(from, count, values);
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store_elements(T* to, int count, const float (&values)[8]) {
  if (kWhole && count == 8) {
    store_8(to, values);
  } else {
    store_up_to_8(to, count, values);
  }
}

template <SmoothFunction kFunction, typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    smooth_kernel(const T* x, T* out, std::int16_t* __restrict__ derivative,
                  std::uint8_t* __restrict__ fraction, std::int64_t n) {
  const SmoothCode code = smooth_code(kFunction);
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x * 8;
  for (std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
       at < n; at += stride) {
    const int count = n - at < 8 ? static_cast<int>(n - at) : 8;
    float v[8];
    std::int16_t whole[8];
    std::uint8_t parts[8];
    load_elements<kWhole>(x + at, count, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const SmoothResult<float> result = smooth_of<kFunction>(i < count ? v[i] : 0.0f);
      const SmoothSteps steps = smooth_coded(result.derivative, code, fraction != nullptr);
      v[i] = result.value;
      whole[i] = steps.whole;
      parts[i] = steps.fraction;
    }
    store_elements<kWhole>(out + at, count, v);
    if (derivative != nullptr) store_integers<kWhole>(derivative + at, count, whole);
    if (derivative != nullptr && fraction != nullptr) {
      store_integers<kWhole>(fraction + at, count, parts);
    }
  }
}

template <SmoothFunction kFunction, typename T, bool kWhole>
__global__ void __launch_bounds__(kGroupThreads)
    smooth_backward_kernel(const T* g, const std::int16_t* __restrict__ derivative,
                           const std::uint8_t* __restrict__ fraction, T* out, const T* other,
                           std::int64_t n) {
  const SmoothCode code = smooth_code(kFunction);
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x * 8;
  for (std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
       at < n; at += stride) {
    const int count = n - at < 8 ? static_cast<int>(n - at) : 8;
    float v[8];
    float more[8] = {};
    std::int16_t whole[8];
    std::uint8_t parts[8] = {};
    load_elements<kWhole>(g + at, count, v);
    load_integers<kWhole>(derivative + at, count, whole);
    if (fraction != nullptr) load_integers<kWhole>(fraction + at, count, parts);
    if (other != nullptr) load_elements<kWhole>(other + at, count, more);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= count) continue;
      v[i] = v[i] * smooth_decoded({whole[i], parts[i]}, code) + more[i];
    }
    store_elements<kWhole>(out + at, count, v);
  }
}

inline std::int64_t smooth_blocks(std::int64_t count) { return group_blocks(1, count); }

// Each calls launch(kernel, its typed pointers...) with the instantiation that fits the arguments.
// The launchers in the .cu file and the host tests both select through these.
template <typename T, typename Launch>
void smooth_choose_function(const SmoothArgs& args, Launch&& launch) {
  const auto* x = static_cast<const T*>(args.x);
  auto* out = static_cast<T*>(args.out);
  const bool whole = on_16_bytes(x) && on_16_bytes(out) && on_16_bytes(args.derivative) &&
                     on_16_bytes(args.fraction);
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
void smooth_backward_choose_function(const SmoothBackwardArgs& args, Launch&& launch) {
  const auto* g = static_cast<const T*>(args.g);
  const auto* other = static_cast<const T*>(args.other);
  auto* out = static_cast<T*>(args.out);
  const bool whole = on_16_bytes(g) && on_16_bytes(out) && on_16_bytes(other) &&
                     on_16_bytes(args.derivative) && on_16_bytes(args.fraction);
  with_smooth_function(args.function, [&](auto function) {
    constexpr SmoothFunction kFunction = decltype(function)::value;
    if (whole) {
      launch(&smooth_backward_kernel<kFunction, T, true>, g, out, other);
    } else {
      launch(&smooth_backward_kernel<kFunction, T, false>, g, out, other);
    }
  });
}

template <typename Launch>
void smooth_backward_choose(const SmoothBackwardArgs& args, Launch&& launch) {
  if (args.type == ElementType::kBFloat16) {
    smooth_backward_choose_function<__nv_bfloat16>(args, launch);
  } else {
    smooth_backward_choose_function<float>(args, launch);
  }
}

}  // namespace sign_ext
