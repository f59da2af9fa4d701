// masked_cotangent: the CPU kernel and the source of the CUDA kernel against its definition in
// double precision. All values are chosen so that float32 arithmetic is exact: the results must be
// bit-identical, including rounding to bfloat16.

#include "masked_cotangent/masked_cotangent.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "masked_cotangent/masked_cotangent_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::MaskedCotangentArgs;

enum class Target { kFresh, kInPlace, kOntoOther };

struct Problem {
  rows_test::Size size;
  ElementType type;
  bool mask, scale, other;
  float slope;
  int misaligned;  // which array is 3 elements past a 16-byte boundary; 0 none, 6 all
  Target target;

  std::string text() const {
    return std::to_string(size.rows) + " x " + std::to_string(size.channels) + ", type " +
           std::to_string(static_cast<int>(type)) + (mask ? ", mask" : "") +
           (scale ? ", scale" : "") + (other ? ", other" : "") + ", slope " +
           std::to_string(slope) + ", misaligned " + std::to_string(misaligned) + ", target " +
           std::to_string(static_cast<int>(target));
  }
};

// Fills the arrays, calls run(args) and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const MaskedCotangentArgs&)>& run) {
  const auto [rows, channels] = problem.size;
  const std::int64_t n = rows * channels;
  const std::int64_t row_bytes = (channels + 7) / 8;
  std::mt19937 random(seed);
  const auto offset = [&](int array) {
    return problem.misaligned == array || problem.misaligned == 6 ? 3 : 0;
  };
  Elements g(n, problem.type, offset(1));
  Elements other(problem.other ? n : 0, problem.type, offset(3));
  Elements fresh(n, problem.type, offset(2));
  Elements& out = problem.target == Target::kInPlace     ? g
                  : problem.target == Target::kOntoOther ? other
                                                         : fresh;
  Elements scale(channels, ElementType::kFloat32, offset(4));
  Bytes mask(problem.mask ? static_cast<std::size_t>(rows * row_bytes) : 0,
             static_cast<std::size_t>(offset(5)));
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask.data()[i] = static_cast<unsigned char>(random());
  }
  for (std::int64_t row = 0; row < rows && problem.mask && channels % 8 != 0; ++row) {
    mask.data()[row * row_bytes + row_bytes - 1] &=
        static_cast<unsigned char>((1 << (channels % 8)) - 1);
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    scale.set(c, std::vector<double>{0.5, -1, 2, 1.5, 1}[random() % 5]);
  }
  std::vector<double> expected(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    double v = rows_test::draw(random);
    g.set(i, v);
    if (problem.other) {
      other.set(i, rows_test::draw(random));
      v += other.get(i);
    }
    if (problem.mask && !rows_test::bit_of(mask.data(), channels, i / channels, i % channels)) {
      v = problem.slope == 0 ? 0.0 : double{problem.slope} * v;
    }
    if (problem.scale) v *= scale.get(i % channels);
    expected[static_cast<std::size_t>(i)] = rows_test::rounded(v, problem.type);
  }
  const std::vector<unsigned char> mask_before(mask.data(), mask.data() + mask.size());

  MaskedCotangentArgs args{};
  args.g = g.data();
  args.out = out.data();
  args.other = problem.other ? other.data() : nullptr;
  args.mask = problem.mask ? mask.data() : nullptr;
  args.scale = problem.scale ? static_cast<const float*>(scale.data()) : nullptr;
  args.type = problem.type;
  args.rows = rows;
  args.channels = channels;
  args.slope = problem.slope;
  run(args);

  for (std::int64_t i = 0; i < n; ++i) {
    const double value = expected[static_cast<std::size_t>(i)];
    CHECK(rows_test::same(out.get(i), value), problem.text() + ": element " + std::to_string(i) +
                                                  " is " + std::to_string(out.get(i)) + ", not " +
                                                  std::to_string(value));
  }
  CHECK(std::equal(mask_before.begin(), mask_before.end(), mask.data()),
        problem.text() + ": the mask was written");
  CHECK(out.front_untouched(), problem.text() + ": wrote before the start of an array");
}

// Calls body(problem, seed) for all sizes, types, slopes, alignments and optional arrays.
void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  std::uint32_t seed = 1;
  for (const rows_test::Size size : rows_test::sizes()) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      for (const float slope : {0.0f, 0.25f}) {
        for (const bool mask : {false, true}) {
          for (const bool scale : {false, true}) {
            for (const bool other : {false, true}) {
              std::mt19937 choice(seed);
              Problem problem{
                  size,          type, mask, scale, other, slope, static_cast<int>(choice() % 7),
                  Target::kFresh};
              const auto target = static_cast<Target>(choice() % 3);
              if (target != Target::kOntoOther || other) problem.target = target;
              body(problem, seed);
              ++seed;
            }
          }
        }
      }
    }
  }
}

void launch_emulated(const MaskedCotangentArgs& args, std::int64_t most) {
  launches_test::require_launched(
      sign_ext::masked_cotangent_for_each_launch(args, most, launches_test::Emulated{}));
}

TEST(cpu_kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const MaskedCotangentArgs& args) {
      sign_ext::masked_cotangent_cpu(args, 0, args.rows);
    });
  });
}

TEST(cpu_kernel_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [seed](const MaskedCotangentArgs& args) {
      const std::int64_t cut = args.rows == 0 ? 0 : seed % args.rows;
      sign_ext::masked_cotangent_cpu(args, cut, args.rows);
      sign_ext::masked_cotangent_cpu(args, 0, cut);
    });
  });
}

TEST(kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const MaskedCotangentArgs& args) {
      launch_emulated(args, sign_ext::kMostLaunchElements);
    });
  });
}

TEST(kernel_in_several_launches) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const MaskedCotangentArgs& args) {
      launch_emulated(args, std::max(args.channels, args.rows * args.channels / 3));
    });
  });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
