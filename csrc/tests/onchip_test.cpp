// The source of onchip's kernel on the emulated device against its definition: random networks of
// one to three layers, two steps, one launch; and the same split into a forward and a backward
// launch. All results must be bit-identical, in every order of threads.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "onchip/onchip_kernel.cuh"
#include "tests/check.h"
#include "tests/onchip_definition.h"

namespace {

using namespace onchip_test;

void launch(const Args& args, std::uint32_t seed, unsigned int blocks) {
  host_cuda::Options options;
  options.seed = seed;
  options.dynamic_shared_bytes = static_cast<std::size_t>(args.plan.shared_bytes);
  host_cuda::launch_with(options, &onchip_kernel, blocks,
                         static_cast<unsigned int>(args.plan.threads), args);
}

LayerShape random_layer(std::mt19937& random, bool small) {
  const auto one_of = [&random](std::initializer_list<int> values) {
    return values.begin()[random() % values.size()];
  };
  LayerShape layer{};
  layer.channels = one_of({3, 8, 16, 20, 32});
  layer.kernel_h = one_of({1, 2, 3});
  layer.kernel_w = one_of({1, 3});
  layer.stride = small ? 1 : one_of({1, 1, 2});
  layer.pad_top = one_of({0, 1});
  layer.pad_left = one_of({0, 1});
  layer.pad_end = one_of({0, 1});
  layer.pooled = !small && one_of({0, 1}) != 0;
  layer.activation = one_of({0, 1, 2, 3});
  return layer;
}

Problem random_problem(std::uint32_t seed) {
  std::mt19937 random(seed);
  Problem problem{};
  problem.height = 6 + static_cast<int>(random() % 4);
  problem.width = 6 + static_cast<int>(random() % 5);
  problem.channels = static_cast<int>(1 + random() % 10);
  problem.images = 2;
  problem.steps = 2;
  problem.threads = random() % 2 == 0 ? 128 : 256;
  const auto layers = static_cast<unsigned int>(1 + random() % 3);
  int height = problem.height;
  int width = problem.width;
  for (unsigned int i = 0; i < layers; ++i) {
    LayerShape layer = random_layer(random, i > 0);
    layer.kernel_h = std::min(layer.kernel_h, height);
    layer.kernel_w = std::min(layer.kernel_w, width);
    height = (height + layer.pad_top + layer.pad_end - layer.kernel_h) / layer.stride + 1;
    width = (width + layer.pad_left + layer.pad_end - layer.kernel_w) / layer.stride + 1;
    layer.pooled = layer.pooled && height > 1 && width > 1;
    if (layer.pooled) {
      height /= 2;
      width /= 2;
    }
    problem.layers.push_back(layer);
  }
  problem.momentum = random() % 2 == 0;
  problem.clamped = random() % 2 == 0;
  problem.loads = static_cast<int>(random() % 3);
  return problem;
}

void compare(const Case& got, const Case::Expected& expected, int steps, const std::string& what) {
  CHECK(got.p == expected.p, what + ": wrong image");
  if (got.velocity != expected.velocity) CHECK(false, what + ": wrong velocity");
  float delta;
  float q;
  std::memcpy(&delta, &got.watch[0], 4);
  std::memcpy(&q, &got.watch[1], 4);
  CHECK(delta == expected.largest_delta && q == expected.largest_q, what + ": wrong watch");
  CHECK(got.counts[1] == 0x7fffffff, what + ": a step was reported as not finite");
  CHECK(got.counts[0] == 10 + steps && got.counts[2] == 0, what + ": steps were not counted");
}

// Compares all residues except the padding after each layer's.
bool same_residues(const Plan& plan, const std::uint8_t* one, const std::uint8_t* other) {
  for (int image = 0; image < 2; ++image) {
    for (int i = 0; i < plan.layers; ++i) {
      const Layer& layer = plan.layer[i];
      const int pixels =
          layer.pooled != 0 ? (layer.out_h / 2) * (layer.out_w / 2) : layer.out_h * layer.out_w;
      const int at = image * plan.residue_bytes + layer.residue_at;
      const int used = pixels * layer.out_c / kChunk * layer.kept;
      if (!std::equal(one + at, one + at + used, other + at)) return false;
    }
  }
  return true;
}

TEST(two_steps_in_one_launch_are_two_steps) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    const Problem problem = random_problem(seed);
    Case one(problem, seed);
    const auto expected = one.expected(problem.steps);
    launch(one.args(true, true), seed, 1 + seed % 2);
    compare(one, expected, problem.steps, "seed " + std::to_string(seed));
  }
}

TEST(a_forward_and_a_backward_launch_are_one_step) {
  for (std::uint32_t seed = 100; seed < 108; ++seed) {
    const Problem problem = random_problem(seed);
    Case one(problem, seed);
    const auto expected = one.expected(1);
    std::vector<std::uint8_t> residues(static_cast<std::size_t>(2 * one.shape().residue_bytes + 16),
                                       0x5a);
    // The kernel copies words of 4 bytes.
    std::uint8_t* const aligned =
        residues.data() + (16 - reinterpret_cast<std::uintptr_t>(residues.data()) % 16) % 16;
    std::vector<std::uint16_t> features(expected.last_value.size(), 0x7fff);
    Args forward = one.args(true, false);
    forward.features = features.data();
    forward.residues = aligned;
    const std::vector<float> before = one.p;
    launch(forward, seed, 2);
    // A whole step writes the same bits if it is asked for them.
    Case other(problem, seed);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(2 * one.shape().residue_bytes / 4));
    Args whole = other.args(true, true);
    whole.steps = 1;
    whole.residues = reinterpret_cast<std::uint8_t*>(words.data());
    launch(whole, seed, 1);
    compare(other, expected, 1, "with residues, seed " + std::to_string(seed));
    CHECK(same_residues(one.shape(), aligned, whole.residues), "wrong residues");
    CHECK(one.p == before, "the forward launch changed the image");
    for (std::size_t i = 0; i < features.size(); ++i) {
      CHECK(sign_ext::bfloat16_bits_to_float(features[i]) == expected.last_value[i],
            "wrong last value");
    }
    const std::vector<std::uint16_t> cotangent = one.seed_of_each_image();
    Args backward = one.args(false, true);
    backward.residues = aligned;
    backward.cotangent = cotangent.data();
    launch(backward, seed, 1);
    compare(one, expected, 1, "seed " + std::to_string(seed));
  }
}

// Identity blocks, a shortcut by a convolution, a value that two convolutions read and a sum adds.
TEST(sums_and_branches_are_those_of_the_definition) {
  Problem problem{};
  problem.height = 7;
  problem.width = 6;
  problem.channels = 3;
  problem.images = 2;
  problem.steps = 2;
  problem.threads = 128;
  problem.momentum = true;
  problem.layers = {
      {16, 3, 3, 1, 1, 1, 1, false, 1},         // 0
      {16, 3, 3, 1, 1, 1, 1, false, 3},         // 1
      {16, 3, 3, 1, 1, 1, 1, false, 1, 1, 0},   // 2 adds what 1 reads
      {20, 1, 1, 2, 0, 0, 0, false, 0},         // 3, a shortcut: only added, no activation
      {20, 3, 3, 2, 1, 1, 1, false, 2, 2, -1},  // 4 reads what 3 reads
      {20, 3, 3, 1, 1, 1, 1, false, 1, 1, 3},   // 5
      {16, 1, 1, 1, 0, 0, 0, false, 0},         // 6, only added
      {16, 3, 3, 1, 1, 1, 1, false, 1, 2, 6},   // 7 reads 5, as 6 does
      {20, 3, 3, 1, 1, 1, 1, false, 1, 1, 5},   // 8 adds 5 as well
  };
  for (problem.loads = 0; problem.loads < 3; ++problem.loads) {
    const auto seed = static_cast<std::uint32_t>(200 + problem.loads);
    Case one(problem, seed);
    const auto expected = one.expected(problem.steps);
    launch(one.args(true, true), seed, 1);
    compare(one, expected, problem.steps, "loads " + std::to_string(problem.loads));
  }
}

// Every activation before and after a pooling, on odd sizes: tiles of 64 and of 32 positions, of 32
// and of 16 channels, whole and partial; one block takes one image, with and without a velocity.
TEST(every_kind_of_layer_is_that_of_the_definition) {
  for (int kind = 0; kind < 8; ++kind) {
    const bool pooled = kind % 2 != 0;
    const int activation = kind / 2;
    Problem problem{};
    problem.height = 15;
    problem.width = 13;
    problem.channels = 3;
    problem.images = problem.steps = 1;
    problem.threads = 128;
    problem.momentum = activation % 2 != 0;
    problem.clamped = pooled != problem.momentum;
    problem.layers = {{32, 3, 3, 1, 1, 1, 1, pooled, activation},
                      {20, 3, 3, 1, 1, 1, 1, !pooled, activation},
                      {16, 1, 1, 1, 0, 0, 0, false, 3 - activation}};
    const auto seed = static_cast<std::uint32_t>(300 + kind);
    Case one(problem, seed);
    const auto expected = one.expected(1);
    launch(one.args(true, true), seed, 1);
    compare(one, expected, 1, "kind " + std::to_string(kind));
  }
}

// Images whose tiles have 32 and 16 channels, and blocks of 512 threads.
TEST(images_of_many_channels_are_updated_like_others) {
  for (const int channels : {9, 20}) {
    Problem problem{};
    problem.height = 7;
    problem.width = 9;
    problem.channels = channels;
    problem.images = problem.steps = 2;
    problem.threads = 512;
    problem.momentum = problem.clamped = true;
    problem.layers = {{16, 3, 3, 1, 1, 1, 1, true, 1}};
    const auto seed = static_cast<std::uint32_t>(channels);
    Case one(problem, seed);
    const auto expected = one.expected(problem.steps);
    launch(one.args(true, true), seed, 1);
    compare(one, expected, problem.steps, std::to_string(channels) + " channels");
  }
}

// The same call gives the same bits in any order of threads: a missing barrier would show.
TEST(no_result_depends_on_the_order_of_threads) {
  Problem problem = random_problem(3);
  problem.layers = {{16, 3, 3, 1, 1, 1, 1, true, 1}, {24, 3, 3, 1, 1, 1, 1, false, 1}};
  for (problem.loads = 0; problem.loads < 3; ++problem.loads) {
    const auto expected = Case(problem, 3).expected(problem.steps);
    for (std::uint32_t seed = 0; seed < 4; ++seed) {
      Case one(problem, 3);
      launch(one.args(true, true), seed, 1);
      compare(one, expected, problem.steps, "order " + std::to_string(seed));
    }
  }
}

TEST(the_first_step_that_is_not_finite_is_named) {
  Problem problem = random_problem(5);
  problem.layers = {{8, 3, 3, 1, 1, 1, 1, false, 0}};
  problem.images = 1;
  problem.clamped = true;  // the image itself stays finite
  problem.momentum = false;
  Case one(problem, 5);
  Args args = one.args(true, true);
  args.step_size = std::numeric_limits<float>::infinity();
  args.steps = 2;
  launch(args, 1, 1);
  CHECK(one.counts[1] == 11, "named step " + std::to_string(one.counts[1]));
  CHECK(one.counts[0] == 12 && one.counts[2] == 0, "steps were not counted");
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
