// The CUDA kernel of stem_update_ (contract, bytes and floor: stem_update.h) and the selection of
// its launch. There are no torch headers and no runtime calls here: nvcc compiles this source for
// the device, and the host compiler compiles the same source for csrc/tests.
//
// A task is a run of 4 pixels of a row that use the same taps (stride_w columns apart), with all
// channels of the image. Its sums over g's channels are split among 1, 2, 4 or 8 adjacent lanes,
// which take the groups of 8 channels in turn, and are combined with shuffles. So a warp reads g in
// adjacent 16-byte accesses, and the 8 weights of an image channel that a lane reads from shared
// memory serve 4 pixels. From one tap to the next g comes from the L1 cache: each of its bytes is
// read from memory about once. The grid strides over the tasks, so a block fills its shared memory
// once.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "common/dynamic_shared.cuh"
#include "common/pack.cuh"
#include "common/watch.cuh"
#include "stem_update/stem_update.h"
#include "stem_update/stem_update_tasks.cuh"

namespace sign_ext {

// The weights of one tap and one channel of the image, for a group of 8 of g's channels. In shared
// memory they are zero-padded past the last channel.
template <bool kShared>
__device__ __forceinline__ void load_stem_weight(const float* weight, int vector,
                                                 const StemTasks& tasks, int group,
                                                 float (&values)[8]) {
  if constexpr (kShared) {
    load_8(weight + (vector * tasks.groups + group) * 8, values);
  } else {
    load_up_to_8(weight + std::int64_t{vector} * tasks.channels + group * 8,
                 tasks.channels - group * 8, values);
  }
}

// Adds one tap's contribution to the sums, from this lane's groups of 8 channels. `place` is the
// first pixel's index in g, and `column` its column.
template <typename T, bool kWhole, int kChannels, bool kGuarded, bool kShared>
__device__ __forceinline__ void add_stem_tap(const StemUpdateArgs& args, const StemTasks& tasks,
                                             const float* weight, int vector, int many,
                                             std::int64_t place, int column, int lane,
                                             float (&sums)[kStemRun][kChannels]) {
#pragma unroll 1
  for (int group = lane; group < tasks.groups; group += tasks.lanes) {
    float weights[kChannels][8];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      // A channel past the image's last uses another channel's weights and is not stored.
      const int known = kGuarded && c >= many ? 0 : c;
      load_stem_weight<kShared>(weight, vector + known, tasks, group, weights[c]);
    }
    const T* const g = static_cast<const T*>(args.g) + place * tasks.channels + group * 8;
    const std::uint8_t* const mask =
        args.mask == nullptr ? nullptr : args.mask + place * tasks.groups + group;
#pragma unroll
    for (int i = 0; i < kStemRun; ++i) {
      if (column + i < 0 || column + i >= tasks.out_width) continue;
      float values[8];
      load_group<kWhole>(g + i * tasks.channels, tasks.channels - group * 8, values);
      if (mask != nullptr) {
        const unsigned int bits = mask[i * tasks.groups];
#pragma unroll
        for (int o = 0; o < 8; ++o) {
          values[o] = pull_back(values[o], (bits >> o & 1u) != 0, args.slope);
        }
      }
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int o = 0; o < 8; ++o) sums[i][c] += values[o] * weights[c][o];
      }
    }
  }
}

// Adds all taps' contributions to a task's sums.
template <typename T, bool kWhole, int kChannels, bool kGuarded, bool kShared>
__device__ __forceinline__ void add_stem_taps(const StemUpdateArgs& args, const StemTasks& tasks,
                                              const float* weight, const StemRun& run, int first,
                                              int many, int lane,
                                              float (&sums)[kStemRun][kChannels]) {
#pragma unroll 1
  for (int a = 0; a < tasks.kernel_h; ++a) {
    const int down = run.y + tasks.pad_top - a * tasks.dilation_h;
    const int line = down / tasks.stride_h;
    if (down < 0 || line >= tasks.out_height || line * tasks.stride_h != down) continue;
    const std::int64_t g_row = (run.g_row + line) * tasks.out_width;
#pragma unroll 1
    for (int b = 0; b < tasks.kernel_w; ++b) {
      const int across = run.x + tasks.pad_left - b * tasks.dilation_w;
      const int column = across / tasks.stride_w;
      if (column * tasks.stride_w != across) continue;
      const int vector = (a * tasks.kernel_w + b) * tasks.in_channels + first;
      add_stem_tap<T, kWhole, kChannels, kGuarded, kShared>(args, tasks, weight, vector, many,
                                                            g_row + column, column, lane, sums);
    }
  }
}

// Updates one element of the image.
__device__ __forceinline__ void move_stem_element(const StemUpdateArgs& args, std::int64_t element,
                                                  float delta, Most& most) {
  float v = delta;
  if (args.velocity != nullptr) {
    v += args.momentum * args.velocity[element];
    args.velocity[element] = v;
  }
  const float moved = args.p[element] + args.step_size * v;
  args.p[element] = activate(moved, {args.clamp_min, args.clamp_max, 0.0f});
  most.see(delta, moved);
}

// kChannels of the image's channels at a time: all of them or, if kGuarded, at most as many as
// remain. kWhole: g has whole groups of 8 channels, 16-byte aligned.
template <typename T, bool kWhole, int kChannels, bool kGuarded, bool kShared>
__global__ void __launch_bounds__(kStemThreads, 2)
    stem_update_kernel(StemUpdateArgs args, StemTasks tasks) {
  const auto thread = static_cast<int>(threadIdx.x);
  const float* weight = args.weight;
  if constexpr (kShared) {
    float* const shared = dynamic_shared<float>();
    const int padded = tasks.groups * 8;
    const int all = tasks.kernel_h * tasks.kernel_w * tasks.in_channels * padded;
    for (int i = thread; i < all; i += kStemThreads) {
      const int channel = i % padded;
      const int from = i / padded * tasks.channels + channel;
      shared[i] = channel < tasks.channels ? weight[from] : 0.0f;
    }
    weight = shared;
    __syncthreads();
  }
  const int lane = thread & (tasks.lanes - 1);
  const int a_block = kStemThreads / tasks.lanes;
  const std::int64_t stride = std::int64_t{gridDim.x} * a_block;
  Most most;
  // The threads of a block iterate together, as the shuffles need whole warps: those past the last
  // task compute but store nothing.
  for (std::int64_t begin = std::int64_t{blockIdx.x} * a_block; begin < tasks.count;
       begin += stride) {
    const std::int64_t task = begin + thread / tasks.lanes;
    const bool real = task < tasks.count;
    const StemRun run = stem_run(tasks, real ? task : begin);
#pragma unroll 1
    for (int first = 0; first < tasks.in_channels; first += kChannels) {
      const int many = tasks.in_channels - first;
      float sums[kStemRun][kChannels] = {};
      add_stem_taps<T, kWhole, kChannels, kGuarded, kShared>(args, tasks, weight, run, first, many,
                                                             lane, sums);
#pragma unroll 1
      for (int step = tasks.lanes / 2; step > 0; step /= 2) {
#pragma unroll
        for (int i = 0; i < kStemRun * kChannels; ++i) {
          float& sum = sums[i / kChannels][i % kChannels];
          sum += __shfl_xor_sync(0xffffffffu, sum, step);
        }
      }
#pragma unroll
      for (int i = 0; i < kStemRun; ++i) {  // each lane of the task updates different pixels
        const int x = run.x + i * tasks.stride_w;
        if (!real || (i & (tasks.lanes - 1)) != lane || x >= tasks.width) continue;
        const std::int64_t element = (run.row * tasks.width + x) * tasks.in_channels + first;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (!kGuarded || c < many) move_stem_element(args, element + c, sums[i][c], most);
        }
      }
    }
  }
  if (args.watch != nullptr) report<kStemThreads>(args.watch, args.counts, most);
}

// Calls launch(kernel, tasks, bytes of dynamic shared memory) with the instantiation that fits the
// arguments. The launcher in the .cu file and the host tests both select through this.
template <typename T, bool kWhole, typename Launch>
void stem_update_choose_channels(const StemUpdateArgs& args, Launch&& launch) {
  const StemTasks tasks = stem_tasks(args);
  const std::int64_t bytes =
      args.kernel_h * args.kernel_w * args.in_channels * tasks.groups * 8 * 4;
  if (bytes > kStemSharedBytes) {
    launch(&stem_update_kernel<T, kWhole, 4, true, false>, tasks, std::int64_t{0});
  } else if (args.in_channels == 3) {
    launch(&stem_update_kernel<T, kWhole, 3, false, true>, tasks, bytes);
  } else if (args.in_channels == 1) {
    launch(&stem_update_kernel<T, kWhole, 1, false, true>, tasks, bytes);
  } else {
    launch(&stem_update_kernel<T, kWhole, 4, true, true>, tasks, bytes);
  }
}

template <typename Launch>
void stem_update_choose(const StemUpdateArgs& args, Launch&& launch) {
  const bool whole = args.channels % 8 == 0 && on_16_bytes(args.g);
  if (args.type == ElementType::kFloat32) {
    whole ? stem_update_choose_channels<float, true>(args, launch)
          : stem_update_choose_channels<float, false>(args, launch);
  } else {
    whole ? stem_update_choose_channels<__nv_bfloat16, true>(args, launch)
          : stem_update_choose_channels<__nv_bfloat16, false>(args, launch);
  }
}

}  // namespace sign_ext
