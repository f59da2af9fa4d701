// stem_update_: the CPU kernel and the source of the CUDA kernel against its definition in double
// precision; and a check that sums are always added in the same order.

#include "stem_update/stem_update.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/watch_cpu.h"
#include "stem_update/stem_update_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/stem_problems.h"

namespace {

using sign_ext::StemUpdateArgs;
using stem_test::Arrays;
using stem_test::kNone;
using stem_test::kVariants;
using stem_test::Moved;
using stem_test::Problem;
using stem_test::problems;
using stem_test::Variant;

// Does the launcher's job on the emulation, with at most `blocks` blocks however much work there
// is.
void launch_emulated(const StemUpdateArgs& args, std::int64_t blocks, std::uint64_t seed) {
  sign_ext::stem_update_choose(args, [&](auto kernel, const sign_ext::StemTasks& tasks,
                                         std::int64_t bytes) {
    if (tasks.count == 0) return;
    const auto grid = static_cast<unsigned int>(std::min(sign_ext::stem_blocks(tasks), blocks));
    host_cuda::launch_with({.seed = seed, .dynamic_shared_bytes = static_cast<std::size_t>(bytes)},
                           kernel, dim3(grid), dim3(sign_ext::kStemThreads), args, tasks);
  });
}

// Calls run(args, seed) on every problem with one variant each, and compares.
void compare_all(std::uint32_t first, std::uint32_t variants,
                 const std::function<void(const StemUpdateArgs&, std::uint32_t)>& run) {
  std::uint32_t seed = first;
  for (const Problem& problem : problems()) {
    for (std::uint32_t i = 0; i < variants; ++i, ++seed) {
      const Variant variant(seed * 5 % kVariants);
      Arrays arrays(problem, variant, seed);
      const float before[2] = {seed % 4 == 3 ? 1e6f : 0.0f, 0.125f};
      std::memcpy(arrays.watch, before, sizeof(before));
      const Moved moved = arrays.defined();
      run(arrays.args(), seed);
      arrays.compare(moved, before, problem.text(seed * 5 % kVariants));
    }
  }
}

// Leaves NaN in the CPU kernel's scratch memory, where the next call must not read it.
void leave_nan_behind() {
  const Problem problem{1, {1, 1, 1, 0, 1, 0}, {128, 1, 1, 0, 1, 0}, 1, 128};
  std::vector<float> g(128 * 128, std::nanf("")), weight(128, 1.0f), p(128, 0.0f);
  StemUpdateArgs args = Arrays(problem, Variant(0), 0).args();
  args.g = g.data();
  args.weight = weight.data();
  args.p = p.data();
  args.mask = nullptr;
  args.watch = nullptr;
  args.counts = nullptr;
  sign_ext::stem_update_cpu(args, 0, 1);
  CHECK(std::isnan(p[0]), "nothing was computed");
}

TEST(cpu_kernel) {
  compare_all(0, kVariants, [](const StemUpdateArgs& args, std::uint32_t) {
    leave_nan_behind();
    sign_ext::stem_update_cpu(args, 0, args.n * args.height);
    if (args.counts != nullptr && args.n > 0) sign_ext::count_step(args.watch, args.counts);
  });
}

TEST(cuda_kernel_with_blocks_to_spare) {
  compare_all(1, 4, [](const StemUpdateArgs& args, std::uint32_t seed) {
    launch_emulated(args, 1 << 20, seed);
  });
}

TEST(cuda_kernel_with_a_grid_smaller_than_the_work) {
  compare_all(
      3, 2, [](const StemUpdateArgs& args, std::uint32_t seed) { launch_emulated(args, 1, seed); });
}

// With any values, results are bit-identical from call to call, however the rows are split.
void expect_same_bits(const std::function<void(const StemUpdateArgs&, std::uint32_t)>& run) {
  std::uint32_t seed = 0;
  for (const Problem& problem : problems()) {
    const Variant variant(seed * 5 % kVariants);
    std::string first;
    for (std::uint32_t turn = 0; turn < 3; ++turn) {
      Arrays arrays(problem, variant, seed, false);
      run(arrays.args(), turn);
      if (turn == 0) first = arrays.written();
      CHECK(arrays.written() == first,
            problem.text(seed * 5 % kVariants) + ": run " + std::to_string(turn) + " differs");
    }
    ++seed;
  }
}

TEST(cpu_kernel_gives_the_same_bits_however_it_is_split) {
  expect_same_bits([](const StemUpdateArgs& args, std::uint32_t turn) {
    const std::int64_t rows = args.n * args.height;
    if (turn == 2) {  // one by one, starting from the last
      for (std::int64_t row = rows; row-- > 0;) sign_ext::stem_update_cpu(args, row, row + 1);
      return;
    }
    const std::int64_t cut = turn == 0 ? 0 : rows * 2 / 3;
    sign_ext::stem_update_cpu(args, cut, rows);
    sign_ext::stem_update_cpu(args, 0, cut);
  });
}

TEST(cuda_kernel_gives_the_same_bits_in_any_order_of_blocks) {
  expect_same_bits([](const StemUpdateArgs& args, std::uint32_t turn) {
    launch_emulated(args, turn == 2 ? 2 : 1 << 20, turn);
  });
}

TEST(nan_stays_in_the_watch) {
  const Problem problem{1, {4, 3, 1, 1, 1, 1}, {4, 3, 1, 1, 1, 1}, 3, 8};
  for (const bool cuda : {false, true}) {
    Arrays arrays(problem, Variant(0), 7);
    arrays.watch[0] = std::nanf("");
    arrays.watch[1] = kNone;
    const StemUpdateArgs args = arrays.args();
    if (cuda) {
      launch_emulated(args, 4, 1);
    } else {
      sign_ext::stem_update_cpu(args, 0, args.height);
    }
    CHECK(std::isnan(arrays.watch[0]), "NaN was replaced by a number");
    CHECK(arrays.watch[1] == kNone, "infinity was replaced by a number");
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
