// activate and pack_mask: the CPU kernels and the source of the CUDA kernels against their
// definition in double precision. All values are chosen so that float32 arithmetic is exact: the
// results must be bit-identical, including rounding to bfloat16.

#include "activate/activate.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "activate/activate_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using launches_test::Emulated;
using launches_test::require_covered;
using launches_test::require_launched;
using launches_test::require_refused;
using rows_test::Bytes;
using rows_test::Elements;
using rows_test::kInfinity;
using sign_ext::ActivateArgs;
using sign_ext::Activation;
using sign_ext::ElementType;
using sign_ext::PackMaskArgs;

constexpr float kNone = std::numeric_limits<float>::infinity();
constexpr Activation kActivations[] = {
    {-kNone, kNone, 0.0f}, {0.0f, kNone, 0.0f}, {0.0f, 6.0f, 0.0f},
    {-1.0f, 1.0f, 0.0f},   {2.0f, 1.0f, 0.0f},  {0.0f, 0.0f, 0.25f},
};

double defined_value(double v, const Activation& a) {
  if (std::isnan(v)) return v;
  if (a.slope != 0) return v > 0 ? v : double{a.slope} * v;
  return std::min(std::max(v, double{a.low}), double{a.high});
}

bool defined_bit(double y, const Activation& a) {
  if (a.slope != 0) return y > 0;
  return std::isnan(y) || (y > double{a.low} && y < double{a.high});
}

enum class Target { kFresh, kInPlace, kOntoResidual };

struct Problem {
  rows_test::Size size;
  ElementType x_type, out_type;
  Activation activation;
  bool scale, bias, residual, mask;
  int misaligned;  // which array is 3 elements past a 16-byte boundary; 0 none, 7 all
  Target target;

  std::string text() const {
    return std::to_string(size.rows) + " x " + std::to_string(size.channels) + ", types " +
           std::to_string(static_cast<int>(x_type)) + std::to_string(static_cast<int>(out_type)) +
           ", activation " + std::to_string(activation.low) + " " +
           std::to_string(activation.high) + " " + std::to_string(activation.slope) +
           (scale ? ", scale" : "") + (bias ? ", bias" : "") + (residual ? ", residual" : "") +
           (mask ? ", mask" : "") + ", misaligned " + std::to_string(misaligned) + ", target " +
           std::to_string(static_cast<int>(target));
  }
};

// Fills the arrays, calls run(args) and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const ActivateArgs&)>& run) {
  const auto [rows, channels] = problem.size;
  const std::int64_t n = rows * channels;
  std::mt19937 random(seed);
  const auto offset = [&](int array) {
    return problem.misaligned == array || problem.misaligned == 7 ? 3 : 0;
  };
  Elements x(n, problem.x_type, offset(1));
  Elements residual(problem.residual ? n : 0, problem.out_type, offset(3));
  Elements fresh(n, problem.out_type, offset(2));
  Elements& out = problem.target == Target::kInPlace        ? x
                  : problem.target == Target::kOntoResidual ? residual
                                                            : fresh;
  Elements scale(channels, ElementType::kFloat32, offset(4));
  Elements bias(channels, ElementType::kFloat32, offset(5));
  Bytes mask(problem.mask ? static_cast<std::size_t>(rows * ((channels + 7) / 8)) : 0,
             static_cast<std::size_t>(offset(6)));
  for (std::int64_t c = 0; c < channels; ++c) {
    scale.set(c, std::vector<double>{0.5, -1, 2, 1.5, 1}[random() % 5]);
    bias.set(c, static_cast<double>(random() % 33) / 8 - 2);
  }
  std::vector<double> expected(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    double v = rows_test::draw(random);
    x.set(i, v);
    if (problem.scale) v *= scale.get(i % channels);
    if (problem.bias) v += bias.get(i % channels);
    if (problem.residual) {
      residual.set(i, rows_test::draw(random));
      v += residual.get(i);
    }
    expected[static_cast<std::size_t>(i)] =
        rows_test::rounded(defined_value(v, problem.activation), problem.out_type);
  }

  ActivateArgs args{};
  args.x = x.data();
  args.out = out.data();
  args.scale = problem.scale ? static_cast<const float*>(scale.data()) : nullptr;
  args.bias = problem.bias ? static_cast<const float*>(bias.data()) : nullptr;
  args.residual = problem.residual ? residual.data() : nullptr;
  args.mask = problem.mask ? mask.data() : nullptr;
  args.x_type = problem.x_type;
  args.out_type = problem.out_type;
  args.rows = rows;
  args.channels = channels;
  args.activation = problem.activation;
  run(args);

  for (std::int64_t i = 0; i < n; ++i) {
    const double value = expected[static_cast<std::size_t>(i)];
    CHECK(rows_test::same(out.get(i), value), problem.text() + ": element " + std::to_string(i) +
                                                  " is " + std::to_string(out.get(i)) + ", not " +
                                                  std::to_string(value));
    if (!problem.mask) continue;
    CHECK(rows_test::bit_of(mask.data(), channels, i / channels, i % channels) ==
              defined_bit(value, problem.activation),
          problem.text() + ": the bit of element " + std::to_string(i) + " is wrong");
  }
  CHECK(!problem.mask || rows_test::padding_is_zero(mask.data(), rows, channels),
        problem.text() + ": bits past the last channel");
  CHECK(x.front_untouched() && out.front_untouched() && mask.front_untouched(),
        problem.text() + ": wrote before the start of an array");
}

// Calls body(problem, seed) for all sizes, types, activations, alignments and optional arrays.
void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  constexpr ElementType kFloat32 = ElementType::kFloat32;
  constexpr ElementType kBFloat16 = ElementType::kBFloat16;
  std::uint32_t seed = 1;
  for (const rows_test::Size size : rows_test::sizes()) {
    for (const auto& [x_type, out_type] :
         {std::pair{kFloat32, kFloat32}, std::pair{kFloat32, kBFloat16},
          std::pair{kBFloat16, kBFloat16}}) {
      for (const bool affine : {false, true}) {
        for (const bool residual : {false, true}) {
          for (const bool mask : {false, true}) {
            std::mt19937 choice(seed);
            Problem problem{
                size,   x_type,   out_type, kActivations[choice() % 6],     affine,
                affine, residual, mask,     static_cast<int>(choice() % 8), Target::kFresh};
            const auto target = static_cast<Target>(choice() % 3);
            if (target == Target::kOntoResidual && residual) problem.target = target;
            if (target == Target::kInPlace && x_type == out_type) problem.target = target;
            if (choice() % 4 == 0) problem.scale = !problem.scale;
            body(problem, seed);
            ++seed;
          }
        }
      }
    }
  }
}

void launch_emulated(const ActivateArgs& args, std::int64_t most) {
  require_launched(sign_ext::activate_for_each_launch(args, most, Emulated{}));
}

TEST(cpu_kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed,
            [](const ActivateArgs& args) { sign_ext::activate_cpu(args, 0, args.rows); });
  });
}

TEST(cpu_kernel_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [seed](const ActivateArgs& args) {
      const std::int64_t cut = args.rows == 0 ? 0 : seed % args.rows;
      sign_ext::activate_cpu(args, cut, args.rows);
      sign_ext::activate_cpu(args, 0, cut);
    });
  });
}

TEST(kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed,
            [](const ActivateArgs& args) { launch_emulated(args, sign_ext::kMostLaunchElements); });
  });
}

TEST(kernel_in_several_launches) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const ActivateArgs& args) {
      launch_emulated(args, std::max(args.channels, args.rows * args.channels / 3));
    });
  });
}

// Without scale, bias and residual the identity must return every bit of x, also of -0, subnormal
// values and infinities.
TEST(missing_arrays_change_no_bit) {
  for (const std::int64_t channels : {16, 21}) {
    Elements x(channels, ElementType::kFloat32), out(channels, ElementType::kFloat32);
    const double values[] = {-0.0, 0.0, 1e-40, -1e-40, 3.0, -kInfinity, kInfinity, -2.5};
    for (std::int64_t i = 0; i < channels; ++i) x.set(i, values[i % 8]);
    ActivateArgs args{};
    args.x = x.data();
    args.out = out.data();
    args.rows = 1;
    args.channels = channels;
    args.activation = {-kNone, kNone, 0.0f};
    launch_emulated(args, sign_ext::kMostLaunchElements);
    CHECK(std::memcmp(x.data(), out.data(), static_cast<std::size_t>(channels) * 4) == 0,
          "a bit changed with C = " + std::to_string(channels));
  }
}

TEST(launches_cover_every_row_once) {
  constexpr std::int64_t kMost = sign_ext::kMostLaunchElements;
  for (const std::int64_t channels :
       {std::int64_t{1}, std::int64_t{7}, std::int64_t{4096}, kMost}) {
    for (const std::int64_t rows :
         {std::int64_t{1}, kMost / channels, (kMost + channels) / channels,
          std::int64_t{9} * 1000 * 1000 * 1000 / channels + 3}) {
      for (const std::int64_t together : {1, 3}) {
        if (rows % together != 0 || together * channels > kMost) continue;
        launches_test::Ranges ranges;
        const auto launch = [&](const sign_ext::GroupGrid& grid, unsigned int blocks,
                                std::int64_t first) {
          const std::int64_t per_row = (channels + 7) / 8;
          const std::int64_t count = grid.groups / per_row;
          CHECK(grid.groups % per_row == 0 && count % together == 0, "a launch of parts of a row");
          CHECK(count * channels <= kMost, "more elements than a launch may have");
          CHECK(std::int64_t{blocks} * sign_ext::kGroupThreads >= grid.groups, "too few threads");
          ranges.emplace_back(first, count);
        };
        require_launched(sign_ext::for_each_group_launch(rows, channels, together, kMost, launch));
        require_covered(ranges, rows, std::to_string(rows) + " x " + std::to_string(channels));
      }
    }
  }
  const auto none = [](const sign_ext::GroupGrid&, unsigned int, std::int64_t) {
    CHECK(false, "launched a row that is too long");
  };
  require_refused(sign_ext::for_each_group_launch(5, kMost + 1, 1, kMost, none), "2^31");
  require_refused(sign_ext::for_each_group_launch(6, kMost / 2, 3, kMost, none), "2^31");
}

// Values that are not exact in float32: results are bit-identical wherever a call is split, and
// close to the definition.
TEST(splitting_a_call_is_bit_identical) {
  for (const std::int64_t channels : {3, 24, 33, 520}) {
    const std::int64_t rows = 41, n = rows * channels;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(n)), scale(static_cast<std::size_t>(channels)),
        bias(scale.size()), whole(x.size()), cut(x.size());
    for (auto* values : {&x, &scale, &bias}) {
      for (float& value : *values) value = normal(random);
    }
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(rows * ((channels + 7) / 8)));
    ActivateArgs args{};
    args.x = x.data();
    args.scale = scale.data();
    args.bias = bias.data();
    args.mask = mask.data();
    args.rows = rows;
    args.channels = channels;
    args.activation = {0.0f, kNone, 0.0f};
    args.out = whole.data();
    sign_ext::activate_cpu(args, 0, rows);
    args.out = cut.data();
    for (std::int64_t row = 0; row < rows; row += 3) {
      sign_ext::activate_cpu(args, row, std::min(row + 3, rows));
    }
    CHECK(whole == cut, "split calls differ with C = " + std::to_string(channels));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t c = i % static_cast<std::size_t>(channels);
      const double v = double{scale[c]} * double{x[i]} + double{bias[c]};
      CHECK(check::near(double{whole[i]}, std::max(v, 0.0), 1e-6), "not close to the definition");
    }
  }
}

void compare_pack_mask(const std::function<void(const PackMaskArgs&, std::uint32_t)>& run) {
  std::uint32_t seed = 1;
  for (const rows_test::Size size : rows_test::sizes()) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      for (const Activation& activation : kActivations) {
        const auto [rows, channels] = size;
        std::mt19937 random(seed);
        Elements y(rows * channels, type, static_cast<int>(seed % 2) * 3);
        Bytes mask(static_cast<std::size_t>(rows * ((channels + 7) / 8)));
        for (std::int64_t i = 0; i < rows * channels; ++i) {
          y.set(i, rows_test::rounded(defined_value(rows_test::draw(random), activation), type));
        }
        run(PackMaskArgs{y.data(), mask.data(), type, rows, channels, activation}, seed++);
        const std::string text = std::to_string(rows) + " x " + std::to_string(channels);
        for (std::int64_t i = 0; i < rows * channels; ++i) {
          CHECK(rows_test::bit_of(mask.data(), channels, i / channels, i % channels) ==
                    defined_bit(y.get(i), activation),
                text + ": the bit of element " + std::to_string(i) + " is wrong");
        }
        CHECK(rows_test::padding_is_zero(mask.data(), rows, channels),
              text + ": bits past the last channel");
      }
    }
  }
}

TEST(pack_mask_cpu_kernel_in_pieces) {
  compare_pack_mask([](const PackMaskArgs& args, std::uint32_t seed) {
    const std::int64_t cut = args.rows == 0 ? 0 : seed % args.rows;
    sign_ext::pack_mask_cpu(args, cut, args.rows);
    sign_ext::pack_mask_cpu(args, 0, cut);
  });
}

TEST(pack_mask_kernel) {
  compare_pack_mask([](const PackMaskArgs& args, std::uint32_t seed) {
    const std::int64_t most = seed % 2 == 0 ? sign_ext::kMostLaunchElements : args.channels * 3;
    require_launched(sign_ext::pack_mask_for_each_launch(args, most, Emulated{}));
  });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
