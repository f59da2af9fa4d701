// inverted_residual's kernel on the emulated device against its definition in float64, forward and
// backward, in every precision. Sums are exact, so results must be bit-identical.

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "inverted_residual/inverted_residual_kernel.cuh"
#include "tests/check.h"
#include "tests/inverted_residual_problem.h"

namespace {

using namespace block_test;
using sign_ext::block::Plan;

constexpr int kMostShared = 227 * 1024;

struct Device {
  int shared_limit;
  int processors;
  std::uint32_t seed;
};

Elements elements(const Values& values, ElementType type) {
  return Elements(static_cast<std::int64_t>(values.size()), type);
}

void fill(Elements& to, const Values& values) {
  for (std::size_t i = 0; i < values.size(); ++i) to.set(static_cast<std::int64_t>(i), values[i]);
}

// The arrays of one direction, as inverted_residual.h describes them.
struct Arrays {
  Elements first, second, taps, bias;

  Arrays(const Problem& problem, const Constants& with, bool backward)
      : first(first_size(problem, backward), problem.type()),
        second(second_size(problem, backward), problem.type()),
        taps(taps_size(problem.sizes), ElementType::kFloat32),
        bias(2 * chunks(problem.sizes) * kChunk + problem.sizes.to_c + 16, ElementType::kFloat32) {
    const Sizes& s = problem.sizes;
    const int in = backward ? s.to_c : s.from_c;
    const int out = backward ? s.from_c : s.to_c;
    for (std::int64_t i = 0; i < first_size(problem, backward); ++i) first.set(i, 0);
    for (std::int64_t i = 0; i < second_size(problem, backward); ++i) second.set(i, 0);
    for (std::int64_t i = 0; i < taps_size(s); ++i) taps.set(i, 0);
    const int depth = (in + 15) / 16 * 16;
    const int width = (out + 15) / 16 * 16;
    const std::int64_t all = chunks(s) * kChunk;
    for (std::int64_t i = 0; i < 2 * all + s.to_c + 16; ++i) bias.set(i, 0);
    for (int c = 0; c < s.expanded; ++c) {
      const int chunk = c / kChunk;
      const int within = c % kChunk;
      for (int i = 0; i < in; ++i) {
        const int at = backward ? c * s.to_c + i : i * s.expanded + c;
        const Values& weight = backward ? with.project : with.expand;
        first.set((std::int64_t{chunk} * depth + i) * kChunk + within,
                  weight[static_cast<std::size_t>(at)]);
      }
      for (int o = 0; o < out; ++o) {
        const int at = backward ? o * s.expanded + c : c * s.to_c + o;
        const Values& weight = backward ? with.expand : with.project;
        second.set((std::int64_t{chunk} * kChunk + within) * width + o,
                   weight[static_cast<std::size_t>(at)]);
      }
      const int count = s.kernel_h * s.kernel_w;
      for (int t = 0; t < count; ++t) {
        taps.set((std::int64_t{chunk} * count + t) * kChunk + within,
                 with.taps[static_cast<std::size_t>(t * s.expanded + c)]);
      }
      bias.set(c, with.bias[0][static_cast<std::size_t>(c)]);
      bias.set(all + c, with.bias[1][static_cast<std::size_t>(c)]);
    }
    for (int o = 0; o < s.to_c; ++o) {
      bias.set(2 * all + o, with.bias[2][static_cast<std::size_t>(o)]);
    }
  }

  static std::int64_t chunks(const Sizes& s) { return (s.expanded + kChunk - 1) / kChunk; }
  static std::int64_t first_size(const Problem& problem, bool backward) {
    const int in = backward ? problem.sizes.to_c : problem.sizes.from_c;
    return chunks(problem.sizes) * kChunk * ((in + 15) / 16 * 16);
  }
  static std::int64_t second_size(const Problem& problem, bool backward) {
    const int out = backward ? problem.sizes.from_c : problem.sizes.to_c;
    return chunks(problem.sizes) * kChunk * ((out + 15) / 16 * 16);
  }
  static std::int64_t taps_size(const Sizes& s) {
    return chunks(s) * kChunk * s.kernel_h * s.kernel_w;
  }
};

void launch(Args& args, const Device& device, const std::string& what) {
  const Plan plan =
      sign_ext::block::plan_of(args.sizes, args.precision, device.shared_limit, device.processors);
  CHECK(plan.images > 0, what + ": does not fit");
  if (plan.images == 0) return;
  host_cuda::Options options;
  options.seed = device.seed;
  options.dynamic_shared_bytes = static_cast<std::size_t>(plan.shared_bytes);
  sign_ext::block::choose(args, plan, [&](auto kernel) {
    host_cuda::launch_with(options, kernel, sign_ext::block::tiles_of(args.sizes, plan),
                           static_cast<unsigned int>(sign_ext::block::kThreads), args, plan);
  });
}

void compare_values(Elements& got, const Values& expected, const std::string& what) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = got.get(static_cast<std::int64_t>(i));
    CHECK(rows_test::same(value, expected[i]), what + "[" + std::to_string(i) + "] is " +
                                                   std::to_string(value) + ", not " +
                                                   std::to_string(expected[i]));
  }
}

void compare_bits(Bytes& got, const Bits& expected, int channels, const std::string& what) {
  for (std::size_t i = 0; i < expected.of.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    CHECK(rows_test::bit_of(got.data(), channels, at / channels, at % channels) == expected.of[i],
          what + " " + std::to_string(i));
  }
}

// Between -2 and 2: quarters, or 4096ths.
Values drawn(const Problem& problem, std::int64_t n, std::mt19937& random) {
  Values values;
  const unsigned int parts = problem.fine ? 4096 : 4;
  for (std::int64_t i = 0; i < n; ++i) {
    values.push_back(
        (static_cast<double>(random() % (4 * parts + 1)) - 2 * static_cast<double>(parts)) /
        static_cast<double>(parts));
  }
  return values;
}

// Runs both directions of a problem. The backward one reads the bits that the forward one wrote.
void compare(const Problem& problem, const Device& device) {
  const Sizes& s = problem.sizes;
  std::mt19937 random(device.seed);
  const Constants with(s, random);
  const std::int64_t from = s.images * s.from_h * s.from_w;
  const std::int64_t to = s.images * s.to_h * s.to_w;
  const Values x = drawn(problem, from * s.from_c, random);
  const Values added = drawn(problem, problem.added ? to * s.to_c : 0, random);
  const Forward expected = forward(problem, with, x, added);

  Bytes bits[3] = {Bytes(static_cast<std::size_t>(from * s.expanded / 8)),
                   Bytes(static_cast<std::size_t>(to * s.expanded / 8)),
                   Bytes(static_cast<std::size_t>(to * s.to_c / 8))};
  const auto bits_of = [&](int which, const Bounds& activation) {
    return is_identity(activation) ? nullptr : bits[which].data();
  };
  Args args{};
  args.precision = problem.precision;
  args.activation[0] = problem.activation[0];
  args.activation[1] = problem.activation[1];
  args.last = problem.last;

  // Runs one direction in exact-size buffers: reads `read` and adds `more` if it is not empty.
  const auto run = [&](const Values& read, const Values& more, const Values& expected_out,
                       const char* name) {
    Elements in = elements(read, problem.type());
    Elements sum = elements(more, problem.type());
    Elements out(static_cast<std::int64_t>(expected_out.size()), problem.type());
    fill(in, read);
    fill(sum, more);
    Arrays arrays(problem, with, args.backward);
    args.sizes = args.backward ? directed(s, true) : s;
    args.from = in.data();
    args.to = out.data();
    args.first = arrays.first.data();
    args.second = arrays.second.data();
    args.taps = static_cast<const float*>(arrays.taps.data());
    args.bias = args.backward ? nullptr : static_cast<const float*>(arrays.bias.data());
    args.added = problem.added ? sum.data() : nullptr;
    launch(args, device, problem.text());
    compare_values(out, expected_out, problem.text() + ": " + name);
  };

  args.bits[0] = bits_of(0, problem.activation[0]);
  args.bits[1] = bits_of(1, problem.activation[1]);
  args.last_bits = bits_of(2, problem.last);
  run(x, added, expected.out, "out");
  for (int i = 0; i < 2; ++i) {
    if (args.bits[i] == nullptr) continue;
    compare_bits(bits[i], expected.bits[i], s.expanded, problem.text() + ": bit");
  }
  if (args.last_bits != nullptr) {
    compare_bits(bits[2], expected.bits[2], s.to_c, problem.text() + ": last bit");
  }

  const Values g = drawn(problem, to * s.to_c, random);
  const Values other = drawn(problem, problem.added ? from * s.from_c : 0, random);
  args.backward = true;
  std::swap(args.bits[0], args.bits[1]);
  args.last_bits = nullptr;
  run(g, other, backward(problem, with, g, expected.bits, other), "cotangent");
}

Sizes with_outputs(Sizes s, int pad_end) {
  s.to_h = (s.from_h + s.pad_top + pad_end - s.kernel_h) / s.stride_h + 1;
  s.to_w = (s.from_w + s.pad_left + pad_end - s.kernel_w) / s.stride_w + 1;
  return s;
}

constexpr Precision kPrecisions[] = {Precision::kFloat32, Precision::kTensorFloat32,
                                     Precision::kBFloat16};
constexpr Bounds kRelu6{0.0f, 6.0f};
constexpr Bounds kRelu{0.0f, kInfinity};
constexpr Bounds kHardtanh{-0.5f, 1.0f};

// Blocks of MobileNetV2 on a few 32x32 images each.
TEST(blocks_of_mobilenet) {
  const Sizes all[] = {
      // images, from (h, w, c), expanded, to (h, w, c), kernel, stride, padding
      {1, 16, 16, 16, 96, 8, 8, 24, 3, 3, 2, 2, 1, 1},
      {1, 16, 16, 16, 32, 16, 16, 24, 3, 3, 1, 1, 1, 1},
      {3, 8, 8, 24, 144, 8, 8, 24, 3, 3, 1, 1, 1, 1},
      {5, 4, 4, 32, 192, 2, 2, 64, 3, 3, 2, 2, 1, 1},
      {9, 2, 2, 64, 64, 2, 2, 64, 3, 3, 1, 1, 1, 1},
      {33, 1, 1, 160, 64, 1, 1, 320, 3, 3, 1, 1, 1, 1},
  };
  std::uint32_t seed = 1;
  for (const Sizes& sizes : all) {
    const bool skips = sizes.from_c == sizes.to_c && sizes.stride_h == 1;
    compare({sizes, kPrecisions[seed % 3], {kRelu6, kRelu6}, kIdentity, skips},
            {kMostShared, 4, seed});
    ++seed;
  }
}

Sizes drawn_sizes(std::mt19937& random) {
  const auto between = [&random](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned int>(high - low + 1));
  };
  Sizes s{};
  s.kernel_h = between(1, 5);
  s.kernel_w = random() % 2 == 0 ? s.kernel_h : between(1, 5);
  s.stride_h = between(1, 3);
  s.stride_w = random() % 2 == 0 ? s.stride_h : between(1, 3);
  if (random() % 3 == 0) s.kernel_h = s.kernel_w = 3, s.stride_h = s.stride_w = 1;
  s.pad_top = between(0, s.kernel_h - 1);
  s.pad_left = between(0, s.kernel_w - 1);
  s.images = between(1, 6);
  s.from_h = between(s.kernel_h, 9);
  s.from_w = between(s.kernel_w, 9);
  s.from_c = 8 * between(1, 5);
  s.expanded = 8 * between(1, 9);
  s.to_c = 8 * between(1, 9);
  return with_outputs(s, between(0, 1));
}

TEST(random_blocks) {
  const Bounds activations[] = {kIdentity, kRelu, kRelu6, kHardtanh, {-1.0f, kInfinity}};
  for (std::uint32_t seed = 1; seed <= 36; ++seed) {
    std::mt19937 random(seed);
    const Problem problem{drawn_sizes(random),
                          kPrecisions[seed % 3],
                          {activations[random() % 5], activations[random() % 5]},
                          activations[random() % 5],
                          random() % 2 == 0};
    const int processors[] = {1, 4, 100};
    compare(problem, {kMostShared, processors[random() % 3], seed});
  }
}

// Few channels and one tap, so that sums are exact even with 13-bit inputs.
TEST(products_round_their_factors) {
  const Sizes sizes{5, 3, 2, 8, 8, 3, 2, 8, 1, 1, 1, 1, 0, 0};
  for (const Precision precision : {Precision::kFloat32, Precision::kTensorFloat32}) {
    for (std::uint32_t seed = 1; seed < 4; ++seed) {
      const Problem problem{sizes, precision, {kRelu6, kRelu6}, kIdentity, false, true};
      compare(problem, {kMostShared, 1, seed});
    }
  }
}

TEST(less_shared_memory_gives_the_same) {
  const Sizes sizes{7, 4, 4, 16, 40, 4, 4, 16, 3, 3, 1, 1, 1, 1};
  for (const Precision precision : kPrecisions) {
    const Problem problem{sizes, precision, {kRelu6, kHardtanh}, kRelu, true};
    const int least =
        sign_ext::block::plan_for(sizes, precision, 1, sign_ext::block::kNarrow).shared_bytes;
    for (const int limit : {kMostShared, 48 * 1024, least}) compare(problem, {limit, 1, 5});
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
