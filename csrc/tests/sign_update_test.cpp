// sign_update_: the CUDA kernel's source on the emulation and the CPU kernel against a float64
// loop.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "common/watch_cpu.h"
#include "sign_update/sign_update_kernel.cuh"
#include "tests/check.h"

namespace {

using sign_ext::DeltaType;
using sign_ext::SignUpdateArgs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr DeltaType kTypes[] = {DeltaType::kFloat32, DeltaType::kBFloat16, DeltaType::kFloat16};

// An array that starts `offset` elements past a 16-byte boundary and ends with its heap block, so
// that AddressSanitizer stops at the first byte read or written past it. The elements before it
// hold a marker that must survive.
template <typename T>
class Array {
 public:
  Array(std::int64_t n, int offset)
      : n_(n),
        offset_(offset),
        base_(static_cast<T*>(::operator new(static_cast<std::size_t>(n + offset) * sizeof(T),
                                             std::align_val_t{16}))) {
    std::memset(static_cast<void*>(base_), 0x5a, static_cast<std::size_t>(n + offset) * sizeof(T));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(base_, std::align_val_t{16}); }

  T* data() { return base_ + offset_; }
  T& operator[](std::int64_t i) { return base_[offset_ + i]; }
  std::int64_t size() const { return n_; }
  bool front_untouched() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(base_);
    for (std::size_t i = 0; i < static_cast<std::size_t>(offset_) * sizeof(T); ++i) {
      if (bytes[i] != 0x5a) return false;
    }
    return true;
  }

 private:
  std::int64_t n_;
  int offset_;
  T* base_;
};

// The value of a 16-bit float by its definition, sign * 2^(exponent - bias) * fraction.
double value_of(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  const double fraction = std::ldexp(mantissa, -mantissa_bits) + (exponent == 0 ? 0 : 1);
  return sign * std::ldexp(fraction, (exponent == 0 ? 1 : exponent) - bias);
}

struct Problem {
  DeltaType type;
  std::int64_t n;
  int p_offset, delta_offset, velocity_offset;  // elements past a 16-byte boundary
  bool velocity;
  float low, high;
  bool watch = true;

  std::string text() const {
    return "type " + std::to_string(static_cast<int>(type)) + ", n " + std::to_string(n) +
           ", offsets " + std::to_string(p_offset) + " " + std::to_string(delta_offset) + " " +
           std::to_string(velocity_offset) + (velocity ? ", velocity" : "") + ", clamp " +
           std::to_string(low) + " " + std::to_string(high);
  }
};

constexpr float kStep = 0.375f;
constexpr float kMomentum = 0.875f;
// Values stay below 1,000, where float32 is exact to 3e-5. The tolerance allows for two roundings
// and an optional fma.
constexpr double kTolerance = 1e-4;

// most <- max(most, |value|); NaN stays.
void raise(double& most, double value) {
  if (std::isnan(value) || std::fabs(value) > most) most = std::fabs(value);
}

// Fills the arrays, calls update(args) and compares with the formula evaluated in float64.
template <typename Storage>
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const SignUpdateArgs&)>& update) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> pixel(-300.0f, 300.0f);
  Array<float> p(problem.n, problem.p_offset);
  Array<float> velocity(problem.n, problem.velocity_offset);
  Array<Storage> delta(problem.n, problem.delta_offset);
  const auto size = static_cast<std::size_t>(problem.n);
  std::vector<double> expected_p(size), expected_velocity(size);
  double most[2] = {seed % 3 == 0 ? 1e6 : 0.0, 0.125};
  for (std::int64_t i = 0; i < problem.n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    p[i] = i % 97 == 13 ? std::nanf("") : pixel(random);
    velocity[i] = pixel(random);
    double d;
    if constexpr (sizeof(Storage) == 4) {
      delta[i] = pixel(random);
      d = delta[i];
    } else {
      // A sign, an exponent near 1 and any mantissa; now and then a NaN.
      const bool bfloat16 = problem.type == DeltaType::kBFloat16;
      const auto exponent = static_cast<std::uint16_t>((bfloat16 ? 124 : 12) + random() % 6);
      const int mantissa = bfloat16 ? 7 : 10;
      delta[i] = static_cast<Storage>((random() & 0x8000u) | (exponent << mantissa) |
                                      (random() & ((1u << mantissa) - 1)));
      if (i % 89 == 31) delta[i] = 0x7fff;
      d = value_of(delta[i], bfloat16 ? 8 : 5, mantissa);
    }
    const double v = problem.velocity ? double{kMomentum} * velocity[i] + d : d;
    double result = p[i] + double{kStep} * v;
    raise(most[0], d);
    raise(most[1], result);
    if (result < problem.low) result = problem.low;
    if (result > problem.high) result = problem.high;
    expected_velocity[at] = problem.velocity ? v : velocity[i];
    expected_p[at] = result;
  }
  // A watch may hold what an earlier step left, and some problems have no watch.
  float watch[2] = {seed % 3 == 0 ? 1e6f : 0.0f, 0.125f};
  std::int32_t counts[3] = {5, seed % 7 == 0 ? 3 : 0x7fffffff, 0};
  const std::int32_t first = counts[1];
  const std::vector<Storage> delta_before(delta.data(), delta.data() + problem.n);

  SignUpdateArgs args{};
  args.p = p.data();
  args.delta = delta.data();
  args.velocity = problem.velocity ? velocity.data() : nullptr;
  args.delta_type = problem.type;
  args.n = problem.n;
  args.step_size = kStep;
  args.momentum = kMomentum;
  args.clamp_min = problem.low;
  args.clamp_max = problem.high;
  args.watch = problem.watch ? watch : nullptr;
  args.counts = problem.watch ? counts : nullptr;
  update(args);

  for (std::int64_t i = 0; i < problem.n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    CHECK(check::near(p[i], expected_p[at], kTolerance),
          problem.text() + ": p[" + std::to_string(i) + "] is " + std::to_string(p[i]) + ", not " +
              std::to_string(expected_p[at]));
    CHECK(check::near(velocity[i], expected_velocity[at], kTolerance),
          problem.text() + ": velocity[" + std::to_string(i) + "] is wrong");
  }
  CHECK(
      problem.n == 0 || std::memcmp(delta.data(), delta_before.data(), size * sizeof(Storage)) == 0,
      problem.text() + ": delta was written");
  if (problem.watch) {
    const bool finite = std::isfinite(most[0]) && std::isfinite(most[1]);
    const bool counted = problem.n > 0;
    CHECK(check::near(watch[0], most[0], kTolerance) && check::near(watch[1], most[1], kTolerance),
          problem.text() + ": the watch is wrong");
    CHECK(counts[0] == (counted ? 6 : 5) && counts[2] == 0, problem.text() + ": not counted");
    CHECK(counts[1] == (counted && !finite ? std::min(first, 6) : first),
          problem.text() + ": wrong first bad step");
  } else {
    CHECK(counts[0] == 5 && counts[1] == first && watch[1] == 0.125f,
          problem.text() + ": reported without being asked");
  }
  CHECK(p.front_untouched() && velocity.front_untouched() && delta.front_untouched(),
        problem.text() + ": wrote before the start of an array");
}

void compare_any(const Problem& problem, std::uint32_t seed,
                 const std::function<void(const SignUpdateArgs&)>& update) {
  if (problem.type == DeltaType::kFloat32) {
    compare<float>(problem, seed, update);
  } else {
    compare<std::uint16_t>(problem, seed, update);
  }
}

// Calls body(problem, seed) for all sizes, types, offsets, clamps, with and without velocity.
void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  std::uint32_t seed = 1;
  for (const std::int64_t n : {0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 129, 1000, 4099}) {
    for (const DeltaType type : kTypes) {
      for (const bool velocity : {false, true}) {
        for (const int p_offset : {0, 1, 2, 3}) {
          for (const int delta_offset : {0, 1, 3, 6}) {
            // Once aligned when p is, and once never aligned when p is.
            for (const int velocity_offset : {p_offset, (p_offset + 1) % 4}) {
              if (!velocity && velocity_offset != p_offset) continue;
              const bool clamp = seed % 2 == 0;
              body(Problem{type, n, p_offset, delta_offset, velocity_offset, velocity,
                           clamp ? -20.0f : -kInfinity, seed % 3 == 0 ? 90.0f : kInfinity,
                           seed % 5 != 0},
                   seed);
              ++seed;
            }
          }
        }
      }
    }
  }
}

// Does the launcher's job on the emulation, with at most `blocks` blocks however much work there
// is.
void launch_emulated(const SignUpdateArgs& args, std::int64_t blocks) {
  if (args.n == 0) return;
  sign_ext::sign_update_choose(args, [&](auto kernel, auto delta, int head, std::int64_t packs) {
    const std::int64_t wanted =
        (packs + sign_ext::kSignUpdateThreads - 1) / sign_ext::kSignUpdateThreads;
    host_cuda::launch(kernel, dim3(static_cast<unsigned int>(std::min(wanted, blocks))),
                      dim3(sign_ext::kSignUpdateThreads), args.p, delta, args.velocity, args.n,
                      head, args.step_size, args.momentum, args.clamp_min, args.clamp_max,
                      args.watch, args.counts);
  });
}

TEST(kernel_with_blocks_to_spare) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_any(problem, seed, [](const SignUpdateArgs& args) { launch_emulated(args, 1 << 20); });
  });
}

TEST(kernel_with_a_grid_smaller_than_the_work) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_any(problem, seed, [](const SignUpdateArgs& args) { launch_emulated(args, 1); });
  });
}

// What the CPU kernel's caller does once all elements are done.
void count(const SignUpdateArgs& args) {
  if (args.counts != nullptr && args.n > 0) sign_ext::count_step(args.watch, args.counts);
}

TEST(cpu_kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_any(problem, seed, [](const SignUpdateArgs& args) {
      sign_ext::sign_update_cpu(args, 0, args.n);
      count(args);
    });
  });
}

TEST(cpu_kernel_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare_any(problem, seed, [&](const SignUpdateArgs& args) {
      const std::int64_t cut = args.n == 0 ? 0 : seed % args.n;
      sign_ext::sign_update_cpu(args, cut, args.n);
      sign_ext::sign_update_cpu(args, 0, cut);
      count(args);
    });
  });
}

// Wide accesses start at the first element where every array is aligned, if there is one.
TEST(head) {
  alignas(16) static float p[16];
  alignas(16) static float velocity[16];
  alignas(16) static std::uint16_t delta[32];
  const auto head = [](int p_offset, int delta_offset, int velocity_offset, int pack) {
    SignUpdateArgs args{};
    args.p = p + p_offset;
    const auto element = 16 / static_cast<std::size_t>(pack);
    args.delta =
        reinterpret_cast<const char*>(delta) + static_cast<std::size_t>(delta_offset) * element;
    args.velocity = velocity_offset < 0 ? nullptr : velocity + velocity_offset;
    return sign_ext::sign_update_head(args, pack);
  };
  CHECK(head(0, 0, -1, 4) == 0, "aligned float32");
  CHECK(head(1, 1, 1, 4) == 3, "all one element past a boundary");
  CHECK(head(1, 2, -1, 4) == -1, "p and delta never aligned together");
  CHECK(head(1, 1, 2, 4) == -1, "velocity never aligned together with p");
  CHECK(head(0, 4, -1, 8) == 4, "16-bit delta, 8 bytes past a boundary: p is aligned again at 4");
  CHECK(head(3, 7, 3, 8) == 1, "16-bit delta, all one element before a boundary");
  CHECK(head(0, 1, -1, 8) == -1, "16-bit delta, at an odd offset from p");
}

TEST(half_bits_of_every_pattern) {
  for (std::uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    CHECK(check::near(sign_ext::float16_bits_to_float(half), value_of(half, 5, 10), 0.0),
          "float16 " + std::to_string(bits));
    CHECK(check::near(sign_ext::bfloat16_bits_to_float(half), value_of(half, 8, 7), 0.0),
          "bfloat16 " + std::to_string(bits));
  }
  CHECK(std::signbit(sign_ext::float16_bits_to_float(0x8000)), "float16 keeps the sign of zero");
}

// A captured launch is replayed on the counts left by the previous one.
TEST(launches_count_on) {
  std::vector<float> p(4099, 1.0f), delta(4099, 0.5f);
  float watch[2] = {0.0f, 0.0f};
  std::int32_t counts[3] = {0, 0x7fffffff, 0};
  SignUpdateArgs args{};
  args.p = p.data();
  args.delta = delta.data();
  args.n = 4099;
  args.step_size = 1.0f;
  args.clamp_min = -kInfinity;
  args.clamp_max = kInfinity;
  args.watch = watch;
  args.counts = counts;
  for (int step = 1; step <= 5; ++step) {
    if (step == 3) delta[4098] = kInfinity;
    if (step == 4) delta[4098] = 0.5f;
    launch_emulated(args, step);
    CHECK(counts[0] == step && counts[2] == 0, "step " + std::to_string(step) + " not counted");
    CHECK(counts[1] == (step < 3 ? 0x7fffffff : 3), "wrong first bad step");
  }
}

TEST(crossed_bounds_give_the_upper_one_as_torch_does) {
  float p[3] = {-5.0f, 0.0f, 5.0f};
  const float delta[3] = {0.0f, 0.0f, 0.0f};
  SignUpdateArgs args{p, delta, nullptr, DeltaType::kFloat32, 3, 1.0f, 0.0f, 2.0f, 1.0f};
  launch_emulated(args, 1);
  for (const float value : p) CHECK(value == 1.0f, "expected the upper bound");
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
