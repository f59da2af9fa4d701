// position_sums and gate: the CPU kernels and the source of the CUDA kernels against their
// definitions in double precision.

#include "gate/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gate/gate_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using launches_test::Emulated;
using launches_test::require_launched;
using launches_test::require_refused;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::GateArgs;
using sign_ext::PositionSumsArgs;

struct Problem {
  std::int64_t images, positions, channels;
  ElementType type;
  bool second;    // y of position_sums, shift of gate
  bool in_place;  // of gate
  int misaligned;

  std::int64_t count() const { return images * positions * channels; }
  std::string text() const {
    return std::to_string(images) + " x " + std::to_string(positions) + " x " +
           std::to_string(channels) + ", type " + std::to_string(static_cast<int>(type)) +
           (second ? ", with the second" : "") + (in_place ? ", in place" : "") + ", misaligned " +
           std::to_string(misaligned);
  }
};

double eighths(std::mt19937& random) {
  return static_cast<double>(static_cast<int>(random() % 129) - 64) / 8;
}

void compare_sums(const Problem& problem, std::uint32_t seed,
                  const std::function<void(const PositionSumsArgs&)>& run) {
  std::mt19937 random(seed);
  const std::int64_t constants = problem.images * problem.channels;
  Elements x(problem.count(), problem.type, problem.misaligned);
  Elements y(problem.second ? problem.count() : 0, problem.type, problem.misaligned);
  Elements out(constants, ElementType::kFloat32);
  std::vector<double> expected(static_cast<std::size_t>(constants));
  for (std::int64_t i = 0; i < problem.count(); ++i) {
    double v = eighths(random);
    x.set(i, v);
    if (problem.second) {
      y.set(i, eighths(random));
      v *= y.get(i);
    }
    const std::int64_t image = i / (problem.positions * problem.channels);
    expected[static_cast<std::size_t>(image * problem.channels + i % problem.channels)] += 0.5 * v;
  }
  PositionSumsArgs args{};
  args.x = x.data();
  args.y = problem.second ? y.data() : nullptr;
  args.out = static_cast<float*>(out.data());
  args.type = problem.type;
  args.images = problem.images;
  args.positions = problem.positions;
  args.channels = problem.channels;
  args.factor = 0.5f;
  run(args);
  for (std::int64_t i = 0; i < constants; ++i) {
    // Sums of a few thousand 64ths are exact in float32.
    CHECK(out.get(i) == expected[static_cast<std::size_t>(i)],
          problem.text() + ": sum " + std::to_string(i) + " is " + std::to_string(out.get(i)) +
              ", not " + std::to_string(expected[static_cast<std::size_t>(i)]));
  }
}

void compare_gate(const Problem& problem, std::uint32_t seed,
                  const std::function<void(const GateArgs&)>& run) {
  std::mt19937 random(seed);
  const std::int64_t constants = problem.images * problem.channels;
  Elements x(problem.count(), problem.type, problem.misaligned);
  Elements fresh(problem.count(), problem.type, problem.misaligned);
  Elements& out = problem.in_place ? x : fresh;
  Elements scale(constants, ElementType::kFloat32, problem.misaligned);
  Elements shift(constants, ElementType::kFloat32, problem.misaligned);
  for (std::int64_t i = 0; i < constants; ++i) {
    scale.set(i, eighths(random));
    shift.set(i, eighths(random));
  }
  std::vector<double> expected;
  for (std::int64_t i = 0; i < problem.count(); ++i) {
    x.set(i, eighths(random));
    const std::int64_t image = i / (problem.positions * problem.channels);
    const std::int64_t constant = image * problem.channels + i % problem.channels;
    const double v = x.get(i) * scale.get(constant) + (problem.second ? shift.get(constant) : 0);
    expected.push_back(rows_test::rounded(v, problem.type));
  }
  GateArgs args{};
  args.x = x.data();
  args.out = out.data();
  args.scale = static_cast<const float*>(scale.data());
  args.shift = problem.second ? static_cast<const float*>(shift.data()) : nullptr;
  args.type = problem.type;
  args.images = problem.images;
  args.positions = problem.positions;
  args.channels = problem.channels;
  run(args);
  for (std::int64_t i = 0; i < problem.count(); ++i) {
    CHECK(rows_test::same(out.get(i), expected[static_cast<std::size_t>(i)]),
          problem.text() + ": element " + std::to_string(i) + " is " + std::to_string(out.get(i)) +
              ", not " + std::to_string(expected[static_cast<std::size_t>(i)]));
  }
  CHECK(out.front_untouched(), problem.text() + ": wrote before the start of an array");
}

void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  std::uint32_t seed = 1;
  for (const std::int64_t channels : {1, 7, 8, 16, 33, 130}) {
    for (const std::int64_t positions : {1, 5, 64, 135}) {
      for (const std::int64_t images : {0, 1, 3}) {
        for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
          for (const bool second : {false, true}) {
            std::mt19937 choice(seed);
            body({images, positions, channels, type, second, choice() % 2 == 0,
                  static_cast<int>(choice() % 2 * 3)},
                 seed);
            ++seed;
          }
        }
      }
    }
  }
}

TEST(cpu_kernels_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_sums(problem, seed, [seed](const PositionSumsArgs& args) {
      const std::int64_t parts = args.images * sign_ext::sum_parts(args.channels);
      const std::int64_t cut = parts == 0 ? 0 : seed % parts;
      sign_ext::position_sums_cpu(args, cut, parts);
      sign_ext::position_sums_cpu(args, 0, cut);
    });
    compare_gate(problem, seed, [seed](const GateArgs& args) {
      const std::int64_t rows = args.images * args.positions;
      const std::int64_t cut = rows == 0 ? 0 : seed % rows;
      sign_ext::gate_cpu(args, cut, rows);
      sign_ext::gate_cpu(args, 0, cut);
    });
  });
}

// In one launch, and in launches of one image each.
TEST(kernels) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_sums(problem, seed, [seed](const PositionSumsArgs& args) {
      const std::int64_t parts = (args.channels + sign_ext::kSumLanes - 1) / sign_ext::kSumLanes;
      require_launched(sign_ext::position_sums_for_each_launch(
          args, seed % 2 == 0 ? parts : sign_ext::kMostLaunchElements,
          Emulated{sign_ext::kSumLanes * sign_ext::kSumSlices}));
    });
    compare_gate(problem, seed, [seed](const GateArgs& args) {
      require_launched(sign_ext::gate_for_each_launch(
          args, seed % 2 == 0 ? args.positions * args.channels : sign_ext::kMostLaunchElements,
          Emulated{}));
    });
  });
}

TEST(an_image_that_is_too_large_is_refused) {
  GateArgs args{};
  args.images = 1;
  args.positions = 1 << 20;
  args.channels = 1 << 11;
  require_refused(sign_ext::gate_for_each_launch(args, sign_ext::kMostLaunchElements, Emulated{}),
                  "2^31");
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
