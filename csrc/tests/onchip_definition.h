// Steps of an on-chip network by their definition (onchip/onchip.h), in double precision, one
// element at a time: no tiles, no chunks, no bits.

#pragma once

#include "tests/onchip_problem.h"

namespace onchip_test {

// Rows of channels, one per position.
using Rows = std::vector<double>;

struct Passed {
  Rows value;
  std::vector<int> winner;  // the position of a window's maximum; 0 without pooling
  std::vector<bool> pass;
};

class Definition {
 public:
  Definition(const Plan& plan, const std::vector<std::uint16_t>& weights,
             const std::vector<float>& constants)
      : plan_(plan), weights_(weights), constants_(constants) {}

  double constant(int element) const { return constants_[static_cast<std::size_t>(element)]; }

  // `added`: the value added before the activation, or null.
  Passed forward(const Layer& layer, const Rows& input, const Rows* added) const {
    Rows sums(static_cast<std::size_t>(layer.out_h * layer.out_w * layer.out_c));
    for (int out = 0; out < layer.out_h * layer.out_w; ++out) {
      for (int c = 0; c < layer.out_c; ++c) sums[at(out, c, layer.out_c)] = bias(layer, c);
    }
    for_each_pair(layer, [&](int in, int out, int tap) {
      for (int i = 0; i < layer.in_c; ++i) {
        for (int o = 0; o < layer.out_c; ++o) {
          sums[at(out, o, layer.out_c)] += input[at(in, i, layer.in_c)] * weight(layer, tap, i, o);
        }
      }
    });
    const int height = layer.pooled != 0 ? layer.out_h / 2 : layer.out_h;
    const int width = layer.pooled != 0 ? layer.out_w / 2 : layer.out_w;
    Passed passed;
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        for (int c = 0; c < layer.out_c; ++c) {
          int winner = 0;
          double best = sums[at(place(layer, y, x, 0), c, layer.out_c)];
          for (int position = 1; position < (layer.pooled != 0 ? 4 : 1); ++position) {
            const double other = sums[at(place(layer, y, x, position), c, layer.out_c)];
            if (other > best) {
              best = other;
              winner = position;
            }
          }
          if (added != nullptr) best += (*added)[passed.value.size()];
          const sign_ext::Activation activation{layer.low, layer.high, layer.slope};
          const auto v = static_cast<float>(best);
          passed.pass.push_back(sign_ext::passes(v, activation));
          passed.value.push_back(rounded(sign_ext::activate(v, activation)));
          passed.winner.push_back(winner);
        }
      }
    }
    return passed;
  }

  // The cotangent of a layer's convolution result (and of the added value), from its output's.
  Rows pulled_back(const Layer& layer, const Passed& passed, const Rows& cotangent) const {
    Rows g(static_cast<std::size_t>(layer.out_h * layer.out_w * layer.out_c));
    const int width = layer.pooled != 0 ? layer.out_w / 2 : layer.out_w;
    for (std::size_t i = 0; i < cotangent.size(); ++i) {
      const int pixel = static_cast<int>(i) / layer.out_c;
      const int c = static_cast<int>(i) % layer.out_c;
      const double blocked = layer.slope == 0.0f ? 0.0 : layer.slope * cotangent[i];
      g[at(place(layer, pixel / width, pixel % width, passed.winner[i]), c, layer.out_c)] =
          rounded(passed.pass[i] ? cotangent[i] : blocked);
    }
    return g;
  }

  // The cotangent of a layer's input.
  Rows backward(const Layer& layer, const Rows& g) const {
    Rows result(static_cast<std::size_t>(layer.in_h * layer.in_w * layer.in_c));
    for_each_pair(layer, [&](int in, int out, int tap) {
      for (int i = 0; i < layer.in_c; ++i) {
        for (int o = 0; o < layer.out_c; ++o) {
          result[at(in, i, layer.in_c)] += g[at(out, o, layer.out_c)] * weight(layer, tap, i, o);
        }
      }
    });
    return result;
  }

 private:
  static std::size_t at(int row, int channel, int channels) {
    return static_cast<std::size_t>(row * channels + channel);
  }
  static int place(const Layer& layer, int y, int x, int position) {
    if (layer.pooled == 0) return y * layer.out_w + x;
    return (2 * y + position / 2) * layer.out_w + 2 * x + position % 2;
  }
  double bias(const Layer& layer, int c) const { return constant(layer.bias_element + c); }
  double weight(const Layer& layer, int tap, int in, int out) const {
    return sign_ext::bfloat16_bits_to_float(weights_[static_cast<std::size_t>(
        layer.weight_element + (tap * layer.in_c + in) * layer.out_c + out)]);
  }

  // Calls body for every input position and every output position that reads it, with the tap.
  template <typename Pair>
  static void for_each_pair(const Layer& layer, Pair&& pair) {
    for (int out = 0; out < layer.out_h * layer.out_w; ++out) {
      for (int tap = 0; tap < layer.kernel_h * layer.kernel_w; ++tap) {
        const int y = out / layer.out_w * layer.stride_h - layer.pad_top + tap / layer.kernel_w;
        const int x = out % layer.out_w * layer.stride_w - layer.pad_left + tap % layer.kernel_w;
        if (y < 0 || y >= layer.in_h || x < 0 || x >= layer.in_w) continue;
        pair(y * layer.in_w + x, out, tap);
      }
    }
  }

  const Plan& plan_;
  const std::vector<std::uint16_t>& weights_;
  const std::vector<float>& constants_;
};

inline Case::Expected Case::expected(int steps) const {
  const Definition definition(shape_, weights, constants);
  Expected result{p, velocity, {}};
  const int pixels = shape_.height * shape_.width;
  const int in_c = shape_.layer[0].in_c;
  const Layer& last = shape_.layer[shape_.layers - 1];
  const float momentum = problem_.momentum ? 0.5f : 0.0f;
  for (int image = 0; image < problem_.images; ++image) {
    float* const pixels_of_p = result.p.data() + image * pixels * shape_.channels;
    float* const v = result.velocity.data() + image * pixels * shape_.channels;
    for (int step = 0; step < steps; ++step) {
      Rows value(count(pixels * in_c));
      for (int i = 0; i < pixels * shape_.channels; ++i) {
        const int c = i % shape_.channels;
        value[count(i / shape_.channels * in_c + c)] =
            rounded(definition.constant(shape_.scale_element + c) * pixels_of_p[i] +
                    definition.constant(shape_.shift_element + c));
      }
      std::vector<Passed> passed;
      for (int i = 0; i < shape_.layers; ++i) {
        const Layer& layer = shape_.layer[i];
        const Rows& input = layer.reads < 0 ? value : passed[count(layer.reads)].value;
        const Rows* const added = layer.adds < 0 ? nullptr : &passed[count(layer.adds)].value;
        passed.push_back(definition.forward(layer, input, added));
      }
      value = passed.back().value;
      if (step == 0) {
        for (std::size_t i = 0; i < value.size(); ++i) {
          if (static_cast<int>(i) % last.out_c >= shape_.last_channels) continue;
          result.last_value.push_back(static_cast<float>(value[i]));
        }
      }
      // The cotangents of each layer's output: through convolutions, and through a sum.
      std::vector<Rows> through(count(shape_.layers));
      std::vector<Rows> added(count(shape_.layers));
      for (std::size_t i = 0; i < value.size(); ++i) {
        through.back().push_back(definition.constant(shape_.seed_element + static_cast<int>(i)));
      }
      Rows cotangent;
      for (int i = shape_.layers - 1; i >= 0; --i) {
        const Layer& layer = shape_.layer[i];
        Rows whole = through[count(i)].empty() ? added[count(i)] : through[count(i)];
        if (!through[count(i)].empty() && !added[count(i)].empty()) {
          for (std::size_t e = 0; e < whole.size(); ++e) whole[e] += added[count(i)][e];
        }
        const Rows g = definition.pulled_back(layer, passed[count(i)], whole);
        if (layer.adds >= 0) added[count(layer.adds)] = g;
        cotangent = definition.backward(layer, g);
        if (layer.reads < 0) break;
        Rows& so_far = through[count(layer.reads)];
        if (so_far.empty()) {
          so_far = cotangent;
        } else {  // the first one's partial sum was stored
          for (std::size_t e = 0; e < so_far.size(); ++e) {
            so_far[e] = cotangent[e] + rounded(so_far[e]);
          }
        }
      }
      for (int i = 0; i < pixels * shape_.channels; ++i) {
        const int c = i % shape_.channels;
        const auto delta = static_cast<float>(definition.constant(shape_.scale_element + c) *
                                              cotangent[count(i / shape_.channels * in_c + c)]);
        v[i] = problem_.momentum ? momentum * v[i] + delta : v[i];
        const float q = pixels_of_p[i] + 0.25f * (problem_.momentum ? v[i] : delta);
        result.largest_delta = std::max(result.largest_delta, std::fabs(delta));
        result.largest_q = std::max(result.largest_q, std::fabs(q));
        pixels_of_p[i] = problem_.clamped ? std::clamp(q, -6.0f, 7.0f) : q;
      }
    }
  }
  return result;
}

}  // namespace onchip_test
