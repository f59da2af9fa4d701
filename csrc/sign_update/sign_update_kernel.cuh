// The CUDA kernel of sign_update_ (contract, bytes and floor: sign_update.h) and the selection of
// its launch. There are no torch headers and no runtime calls here: nvcc compiles this source for
// the device, and the host compiler compiles the same source for csrc/tests.
//
// Reads p, delta (and v) once and writes p (and v) once, 16 bytes per thread and access if p, v and
// delta reach a 16-byte boundary at the same element, otherwise one element at a time. The loop is
// a grid-stride loop: the grid has as many blocks as fit on the chip at once, or fewer if there is
// less work, so a thread does its address arithmetic once and no block waits to be scheduled.

#pragma once

#include <cstdint>

#include "common/device.cuh"
#include "common/pack.cuh"
#include "common/watch.cuh"
#include "sign_update/sign_update.h"

namespace sign_ext {

constexpr int kSignUpdateThreads = 256;

// A NaN fails both comparisons and passes through, as in torch.clamp.
__device__ __forceinline__ float sign_update_clamp(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Elements [first, first + N) of every array. N > 1 requires all of them to be aligned for packs.
template <typename Delta, bool kVelocity, int N>
__device__ __forceinline__ void sign_update_elements(float* p, const Delta* delta, float* velocity,
                                                     std::int64_t first, float step_size,
                                                     float momentum, float low, float high,
                                                     Most& most) {
  // p and v are float32, so N of them take N / 4 accesses of 16 bytes. All loads are issued first,
  // so that they are in flight together.
  constexpr int kWide = N < 4 ? N : 4;
  constexpr int kParts = N / kWide;
  const Pack<Delta, N> deltas = load_pack<Delta, N>(delta + first);
  Pack<float, kWide> pixels[kParts];
  Pack<float, kWide> velocities[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    pixels[part] = load_pack<float, kWide>(p + first + part * kWide);
    if constexpr (kVelocity) {
      velocities[part] = load_pack<float, kWide>(velocity + first + part * kWide);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float& pixel = pixels[i / kWide].values[i % kWide];
    const float one_delta = widen(deltas.values[i]);
    float direction = one_delta;
    if constexpr (kVelocity) {
      float& v = velocities[i / kWide].values[i % kWide];
      direction += momentum * v;
      v = direction;
    }
    const float moved = pixel + step_size * direction;
    most.see(one_delta, moved);
    pixel = sign_update_clamp(moved, low, high);
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if constexpr (kVelocity) {
      store_pack<float, kWide>(velocity + first + part * kWide, velocities[part]);
    }
    store_pack<float, kWide>(p + first + part * kWide, pixels[part]);
  }
}

// Packs of N elements start at `head`. The elements before it and those left after the last whole
// pack (fewer than 2 N in all) are done one by one by the grid's first threads.
template <typename Delta, bool kVelocity, int N>
__global__ void __launch_bounds__(kSignUpdateThreads)
    sign_update_kernel(float* __restrict__ p, const Delta* __restrict__ delta,
                       float* __restrict__ velocity, std::int64_t n, int head, float step_size,
                       float momentum, float low, float high, float* watch, int* counts) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t threads = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t packs = (n - head) / N;
  Most most;
  for (std::int64_t pack = thread; pack < packs; pack += threads) {
    sign_update_elements<Delta, kVelocity, N>(p, delta, velocity, head + pack * N, step_size,
                                              momentum, low, high, most);
  }
  const std::int64_t singles = n - packs * N;
#pragma unroll 1
  for (std::int64_t single = thread; single < singles; single += threads) {
    const std::int64_t index = single < head ? single : single + packs * N;
    sign_update_elements<Delta, kVelocity, 1>(p, delta, velocity, index, step_size, momentum, low,
                                              high, most);
  }
  if (watch != nullptr) report<kSignUpdateThreads>(watch, counts, most);
}

// The number of elements before the first one at which p, v and delta are all 16-byte aligned, or
// -1 if there is no such element. `pack` is the number of delta values in 16 bytes.
inline int sign_update_head(const SignUpdateArgs& args, int pack) {
  const auto on_boundary = [](const void* pointer, int bytes) {
    return (reinterpret_cast<std::uintptr_t>(pointer) + static_cast<std::uintptr_t>(bytes)) % 16 ==
           0;
  };
  for (int head = 0; head < pack; ++head) {
    if (on_boundary(args.p, head * 4) && on_boundary(args.delta, head * (16 / pack)) &&
        (args.velocity == nullptr || on_boundary(args.velocity, head * 4))) {
      return head;
    }
  }
  return -1;
}

// Calls launch(kernel, delta, head, packs) with the instantiation that fits the arguments. The
// launcher in the .cu file and the host tests both select through this.
template <typename Delta, bool kVelocity, typename Launch>
void sign_update_choose_pack(const SignUpdateArgs& args, Launch&& launch) {
  constexpr int kPack = static_cast<int>(16 / sizeof(Delta));
  const int head = sign_update_head(args, kPack);
  if (head >= 0 && args.n - head >= kPack) {
    launch(&sign_update_kernel<Delta, kVelocity, kPack>, static_cast<const Delta*>(args.delta),
           head, (args.n - head) / kPack);
  } else {
    launch(&sign_update_kernel<Delta, kVelocity, 1>, static_cast<const Delta*>(args.delta), 0,
           args.n);
  }
}

template <typename Delta, typename Launch>
void sign_update_choose_velocity(const SignUpdateArgs& args, Launch&& launch) {
  if (args.velocity != nullptr) {
    sign_update_choose_pack<Delta, true>(args, launch);
  } else {
    sign_update_choose_pack<Delta, false>(args, launch);
  }
}

template <typename Launch>
void sign_update_choose(const SignUpdateArgs& args, Launch&& launch) {
  switch (args.delta_type) {
    case DeltaType::kFloat32:
      return sign_update_choose_velocity<float>(args, launch);
    case DeltaType::kBFloat16:
      return sign_update_choose_velocity<__nv_bfloat16>(args, launch);
    case DeltaType::kFloat16:
      return sign_update_choose_velocity<__half>(args, launch);
  }
}

}  // namespace sign_ext
