// A network, images and a plan for onchip's kernel, and the results of two steps by definition, in
// double precision. Weights are small integers and every other constant is a power of two, so all
// sums are exact: the kernel's results must be bit-identical.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/storage.h"
#include "onchip/onchip.h"
#include "onchip/onchip_layout.h"

namespace onchip_test {

using namespace sign_ext::onchip;

struct LayerShape {
  int channels, kernel_h, kernel_w, stride, pad_top, pad_left, pad_end;
  bool pooled;
  int activation;  // 0 none, 1 ReLU, 2 clamp, 3 leaky ReLU
  int back = 1;    // how many layers back its input is
  int adds = -1;   // the layer whose output is added, or -1
};

struct Problem {
  int height, width, channels, images, steps, threads;
  std::vector<LayerShape> layers;
  bool momentum, clamped;
  int loads;  // a kWeights... constant, for all phases
};

inline double rounded(double value) {
  return sign_ext::bfloat16_bits_to_float(
      sign_ext::float_to_bfloat16_bits(static_cast<float>(value)));
}

inline int padded(int channels) { return divide_up(channels, 16) * 16; }
inline int padded_image(int channels) { return channels <= 8 ? 8 : padded(channels); }

class Case {
 public:
  Case(const Problem& problem, std::uint32_t seed) : problem_(problem), random_(seed) {
    make_layers();
    p.resize(count(problem.images * problem.height * problem.width * problem.channels));
    for (float& value : p) value = static_cast<float>(draw(8));
    velocity.resize(p.size());
    for (float& value : velocity) value = problem.momentum ? static_cast<float>(draw(2)) : 0.0f;
  }

  // The plan of one kind of launch, with every array in its own place.
  Args args(bool forward, bool backward) {
    Args args{};
    Plan& plan = args.plan;
    plan = shape_;
    plan.forward = forward;
    plan.backward = backward;
    int end = 0;
    const auto place = [&end](int bytes) {
      const int at = end;
      end += divide_up(bytes, 128) * 128;
      return at;
    };
    plan.zeros_at = place(16);
    plan.p_at = place(plan.height * plan.width * plan.channels * 4);
    plan.velocity_at =
        backward && problem_.momentum ? place(plan.height * plan.width * plan.channels * 4) : -1;
    plan.x_at = place(plan.height * plan.width * plan.layer[0].in_c * 2);
    plan.residues_at = place(plan.residue_bytes);
    for (int i = 0; i < plan.layers; ++i) {
      Layer& layer = plan.layer[i];
      const int bytes = weight_rows(layer.kernel_h * layer.kernel_w, layer.in_c) * layer.out_c * 2;
      layer.forward_weights_at = place(bytes);
      layer.backward_weights_at =
          problem_.loads == kWeightsThere ? layer.forward_weights_at : place(bytes);
      layer.keeps = problem_.loads == kWeightsThere;
      layer.forward_load = layer.backward_load = problem_.loads;
      const bool last = i + 1 == plan.layers;
      layer.value_at = forward && (!last || !backward) ? place(pixels_of(i) * layer.out_c * 2) : -1;
      layer.g_at = place(layer.out_h * layer.out_w * layer.out_c * 2);
    }
    for (int i = plan.layers - 1; i >= 0; --i) hand_over(plan, i, place);
    plan.shared_bytes = end;
    args.images = static_cast<unsigned int>(problem_.images);
    args.steps = forward && backward ? problem_.steps : 1;
    args.p = p.data();
    args.velocity = velocity.data();
    args.weights = weights.data();
    args.constants = constants.data();
    args.watch = watch;
    args.counts = counts;
    args.step_size = 0.25f;
    args.momentum = problem_.momentum ? 0.5f : 0.0f;
    args.clamp_min = problem_.clamped ? -6.0f : -std::numeric_limits<float>::infinity();
    args.clamp_max = problem_.clamped ? 7.0f : std::numeric_limits<float>::infinity();
    return args;
  }

  int last_pixels() const { return pixels_of(shape_.layers - 1); }
  const Plan& shape() const { return shape_; }

  // The cotangent of the last value, real channels only.
  std::vector<std::uint16_t> seed_of_each_image() const {
    std::vector<std::uint16_t> seeds;
    const Layer& last = shape_.layer[shape_.layers - 1];
    for (int image = 0; image < problem_.images; ++image) {
      for (int pixel = 0; pixel < last_pixels(); ++pixel) {
        for (int c = 0; c < shape_.last_channels; ++c) {
          const int at = shape_.seed_element + pixel * last.out_c + c;
          seeds.push_back(sign_ext::float_to_bfloat16_bits(constants[count(at)]));
        }
      }
    }
    return seeds;
  }

  std::vector<float> p, velocity, constants;
  std::vector<std::uint16_t> weights;
  alignas(16) unsigned int watch[2] = {0, 0};
  std::int32_t counts[3] = {10, 0x7fffffff, 0};  // ten steps were taken earlier

  // The results by definition, with p and velocity updated.
  struct Expected {
    std::vector<float> p, velocity, last_value;
    float largest_delta = 0, largest_q = 0;
  };
  Expected expected(int steps) const;

 private:
  static std::vector<int> readers(const Plan& plan, int i) {
    std::vector<int> found;
    for (int n = 0; n < plan.layers; ++n) {
      if (plan.layer[n].reads == i) found.push_back(n);
    }
    return found;
  }

  // Where the cotangent of layer i's output is completed: at the first convolution that reads it.
  template <typename Place>
  static void hand_over(Plan& plan, int i, Place&& place) {
    const std::vector<int> convolutions = readers(plan, i);
    int adder = -1;
    for (int n = 0; n < plan.layers; ++n) adder = plan.layer[n].adds == i ? n : adder;
    if (convolutions.empty()) {
      if (adder >= 0) plan.layer[i].g_at = plan.layer[adder].g_at;
      return;
    }
    const int partial =
        convolutions.size() > 1
            ? place(plan.layer[i].out_h * plan.layer[i].out_w * plan.layer[i].out_c * 2)
            : -1;
    for (const int n : convolutions) {
      Layer& reader = plan.layer[n];
      reader.partial_at = partial;
      reader.hands = n == convolutions.front();
      reader.added_at = reader.hands != 0 && adder >= 0 ? plan.layer[adder].g_at : -1;
    }
  }

  static std::size_t count(int n) { return static_cast<std::size_t>(n); }
  int draw(int most) {
    return static_cast<int>(random_() % static_cast<unsigned>(2 * most + 1)) - most;
  }
  int pixels_of(int i) const {
    const Layer& layer = shape_.layer[i];
    return layer.pooled != 0 ? (layer.out_h / 2) * (layer.out_w / 2) : layer.out_h * layer.out_w;
  }

  int add_constants(int real, int all, int most) {
    const int at = static_cast<int>(constants.size());
    for (int i = 0; i < all; ++i) {
      constants.push_back(i < real ? static_cast<float>(draw(most)) : 0.0f);
    }
    return at;
  }

  void make_layers() {
    struct Size {
      int height, width, real, padded;
    };
    std::vector<Size> sizes;  // of the layers' outputs
    int height = problem_.height;
    int width = problem_.width;
    int real = problem_.channels;
    shape_.words = sizeof(Plan) / 4;
    shape_.height = height;
    shape_.width = width;
    shape_.channels = real;
    shape_.threads = problem_.threads;
    shape_.scale_element = static_cast<int>(constants.size());
    int in_c = padded_image(real);
    for (int c = 0; c < in_c; ++c) constants.push_back(c % 2 == 0 ? 1.0f : 0.5f);
    shape_.shift_element = add_constants(real, in_c, 2);
    for (const LayerShape& one : problem_.layers) {
      if (one.back > 1) {
        const Size& read = sizes[sizes.size() - static_cast<std::size_t>(one.back)];
        height = read.height;
        width = read.width;
        real = read.real;
        in_c = read.padded;
      }
      Layer& layer = shape_.layer[shape_.layers++];
      layer.in_h = height;
      layer.in_w = width;
      layer.in_c = in_c;
      layer.out_h = (height + one.pad_top + one.pad_end - one.kernel_h) / one.stride + 1;
      layer.out_w = (width + one.pad_left + one.pad_end - one.kernel_w) / one.stride + 1;
      layer.out_c = padded(one.channels);
      layer.kernel_h = one.kernel_h;
      layer.kernel_w = one.kernel_w;
      layer.stride_h = layer.stride_w = one.stride;
      layer.pad_top = one.pad_top;
      layer.pad_left = one.pad_left;
      layer.reads = shape_.layers - 1 - one.back;
      layer.adds = one.adds;
      layer.partial_at = layer.added_at = -1;
      layer.pooled = one.pooled;
      layer.kept = one.pooled ? 3 : one.activation == 0 ? 0 : 1;
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      layer.low = one.activation == 1 ? 0.0f : one.activation == 2 ? -3.0f : -kInfinity;
      layer.high = one.activation == 2 ? 5.0f : kInfinity;
      layer.slope = one.activation == 3 ? 0.5f : 0.0f;
      layer.in_shift = shift_for(layer.in_c, one.pooled ? 2 : 1);
      if (layer.reads >= 0) shape_.layer[layer.reads].value_shift = layer.in_shift;
      layer.g_shift = layer.weight_shift = shift_for(layer.out_c, 1);
      layer.weight_element = static_cast<int>(weights.size());
      for (int tap = 0; tap < one.kernel_h * one.kernel_w; ++tap) {
        for (int in = 0; in < layer.in_c; ++in) {
          for (int out = 0; out < layer.out_c; ++out) {
            const bool there = in < real && out < one.channels;
            weights.push_back(
                sign_ext::float_to_bfloat16_bits(there ? static_cast<float>(draw(1)) : 0.0f));
          }
        }
      }
      weights.resize(count(layer.weight_element) +
                     count(weight_rows(one.kernel_h * one.kernel_w, layer.in_c) * layer.out_c));
      layer.bias_element = add_constants(one.channels, layer.out_c, 2);
      height = one.pooled ? layer.out_h / 2 : layer.out_h;
      width = one.pooled ? layer.out_w / 2 : layer.out_w;
      real = one.channels;
      in_c = layer.out_c;
      sizes.push_back({height, width, real, in_c});
      layer.residue_at = shape_.residue_bytes;
      shape_.residue_bytes += residue_bytes(height * width, layer.out_c, layer.kept);
    }
    shape_.residue_bytes = divide_up(shape_.residue_bytes, 16) * 16;
    shape_.last_channels = real;
    const Layer& last = shape_.layer[shape_.layers - 1];
    shape_.seed_element = static_cast<int>(constants.size());
    for (int i = 0; i < height * width; ++i) add_constants(real, last.out_c, 2);
  }

  Problem problem_;
  std::mt19937 random_;
  Plan shape_{};
};

}  // namespace onchip_test
