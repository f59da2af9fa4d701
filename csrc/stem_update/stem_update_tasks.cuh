// How the CUDA kernel of stem_update_ divides an image into tasks; see stem_update_kernel.cuh.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/device.cuh"
#include "stem_update/stem_update.h"

namespace sign_ext {

constexpr int kStemThreads = 256;
constexpr int kStemRun = 4;                       // pixels of a task
constexpr int kStemMostLanes = 8;                 // of a task
constexpr std::int64_t kStemSharedBytes = 48000;  // less than the 48 KiB that need no opt-in

// The tasks, and the sizes as the kernel uses them, in 32 bits.
struct StemTasks {
  std::int64_t count;
  int runs;    // per row, among columns that are equal modulo stride_w
  int lanes;   // of a task, a power of 2
  int groups;  // of 8 of g's channels
  int height, width, in_channels;
  int out_height, out_width, channels;
  int kernel_h, kernel_w, stride_h, stride_w;
  int pad_top, pad_left, dilation_h, dilation_w;
};

inline StemTasks stem_tasks(const StemUpdateArgs& args) {
  const auto narrow = [](std::int64_t size) { return static_cast<int>(size); };
  StemTasks tasks{};
  tasks.height = narrow(args.height);
  tasks.width = narrow(args.width);
  tasks.in_channels = narrow(args.in_channels);
  tasks.out_height = narrow(args.out_height);
  tasks.out_width = narrow(args.out_width);
  tasks.channels = narrow(args.channels);
  tasks.kernel_h = narrow(args.kernel_h);
  tasks.kernel_w = narrow(args.kernel_w);
  tasks.stride_h = narrow(args.stride_h);
  tasks.stride_w = narrow(args.stride_w);
  tasks.pad_top = narrow(args.pad_top);
  tasks.pad_left = narrow(args.pad_left);
  tasks.dilation_h = narrow(args.dilation_h);
  tasks.dilation_w = narrow(args.dilation_w);
  tasks.groups = narrow(mask_row_bytes(args.channels));
  tasks.lanes = 1;
  while (tasks.lanes < kStemMostLanes && tasks.lanes * 2 <= tasks.groups) tasks.lanes *= 2;
  const int columns = (tasks.width + tasks.stride_w - 1) / tasks.stride_w;
  tasks.runs = (columns + kStemRun - 1) / kStemRun;
  tasks.count = args.n * args.height * args.stride_w * tasks.runs;
  return tasks;
}

inline std::int64_t stem_blocks(const StemTasks& tasks) {
  const std::int64_t a_block = kStemThreads / tasks.lanes;
  return (tasks.count + a_block - 1) / a_block;
}

// Where a task's pixels lie.
struct StemRun {
  std::int64_t g_row;  // the image's first, of n * out_height
  std::int64_t row;    // of n * height
  int y;
  int x;  // of the first pixel; the others follow stride_w columns apart
};

__device__ __forceinline__ StemRun stem_run(const StemTasks& tasks, std::int64_t task) {
  const int tasks_of_row = tasks.stride_w * tasks.runs;
  StemRun run;
  run.row = task / tasks_of_row;
  const std::int64_t image = run.row / tasks.height;
  run.g_row = image * tasks.out_height;
  run.y = static_cast<int>(run.row - image * tasks.height);
  const auto in_row = static_cast<int>(task - run.row * tasks_of_row);
  run.x = in_row / tasks.runs + in_row % tasks.runs * kStemRun * tasks.stride_w;
  return run;
}

}  // namespace sign_ext
