// onchip's operations on a row of pairs must be those of its elements: activations, their bits and
// cotangents, the masks of windows and the words of the lanes of a position.

#include "onchip/onchip_rows.cuh"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/check.h"

namespace {

using namespace sign_ext::onchip;
using sign_ext::Activation;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const std::vector<Activation> kActivations = {
    {0.0f, kInf, 0.0f}, {-3.0f, 5.0f, 0.0f}, {-kInf, kInf, 0.0f}, {-kInf, kInf, 0.25f}};

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// Ordinary numbers, and those at which comparisons differ.
float draw(std::mt19937& random) {
  constexpr float kSpecial[] = {0.0f, -0.0f, kInf, -kInf, kNaN, -3.0f, 5.0f, 1e-42f};
  const unsigned int which = random() % 16;
  return which < 8 ? kSpecial[which] : static_cast<float>(random() % 2001) / 100.0f - 10.0f;
}

std::uint16_t half_of(unsigned int word, int c) {
  return static_cast<std::uint16_t>(word >> (16 * c));
}

TEST(a_permutation_selects_bytes_and_signs) {
  CHECK(permuted(0x33221100u, 0x77665544u, 0x7610u) == 0x77661100u, "bytes");
  CHECK(permuted(0x00800000u, 0x00000080u, 0xc8a9u) == 0xff00ff00u, "signs");
}

TEST(rows_are_activated_like_their_elements) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    for (const Activation& activation : kActivations) {
      float row[4][2];
      for (auto& pair : row) {
        for (float& value : pair) value = draw(random);
      }
      float activated[4][2];
      std::memcpy(activated, row, sizeof(row));
      const Kind kind = kind_of(activation);
      const unsigned int bits =
          kind == Kind::kRelu    ? activate_row<Kind::kRelu>(activated, activation)
          : kind == Kind::kClamp ? activate_row<Kind::kClamp>(activated, activation)
                                 : activate_row<Kind::kLeaky>(activated, activation);
      for (int j = 0; j < 4; ++j) {
        for (int c = 0; c < 2; ++c) {
          CHECK(same(activated[j][c], sign_ext::activate(row[j][c], activation)), "a value");
          CHECK((bits >> (8 * j + c) & 1u) == (sign_ext::passes(row[j][c], activation) ? 1u : 0u),
                "a bit of " + std::to_string(row[j][c]));
        }
      }
      CHECK((bits & ~0x03030303u) == 0, "bits of other lanes");
      CHECK((kind == Kind::kRelu) == (&activation == &kActivations[0]), "the kind");
    }
  }
}

TEST(rows_of_cotangents_are_pulled_back_like_their_elements) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 200; ++trial) {
    for (const float slope : {0.0f, 0.25f, -1.5f}) {
      for (int t = 0; t < 4; ++t) {
        float row[4][2];
        for (auto& pair : row) {
          for (float& value : pair) value = draw(random);
        }
        const auto pass = static_cast<unsigned int>(random());
        unsigned int words[4];
        pack_row(row, words);
        pull_back_row(row, pass, t, slope, words);
        for (int j = 0; j < 4; ++j) {
          for (int c = 0; c < 2; ++c) {
            const bool bit = (pass >> (8 * j + 2 * t + c) & 1u) != 0;
            const float expected = sign_ext::pull_back(row[j][c], bit, slope);
            CHECK(half_of(words[j], c) == sign_ext::float_to_bfloat16_bits(expected),
                  "a cotangent of " + std::to_string(row[j][c]));
          }
        }
      }
    }
  }
}

TEST(one_position_of_a_window_wins) {
  for (int winner = 0; winner < 4; ++winner) {
    const RowBits bits{0, winner % 2 != 0 ? 1u << 13 : 0, winner / 2 != 0 ? 1u << 13 : 0};
    for (int position = 0; position < 4; ++position) {
      const unsigned int expected = position == winner ? 1u : 0u;
      CHECK((winners_at(bits, position) >> 13 & 1u) == expected, "wrong winner");
    }
  }
}

struct Words {
  unsigned int parts[32][4];
  unsigned int word[32];
};

__global__ void gather_words(Words* words) {
  const auto lane = threadIdx.x;
  words->word[lane] = word_of_lane(words->parts[lane], static_cast<int>(lane % 4));
}

TEST(lanes_gather_the_words_of_their_position) {
  std::mt19937 random(3);
  Words words;
  for (auto& parts : words.parts) {
    for (unsigned int& part : parts) part = static_cast<unsigned int>(random() & random());
  }
  host_cuda::launch(&gather_words, 1, 32, &words);
  for (unsigned int lane = 0; lane < 32; ++lane) {
    unsigned int expected = 0;
    for (unsigned int t = 0; t < 4; ++t) expected |= words.parts[lane / 4 * 4 + t][lane % 4];
    CHECK(words.word[lane] == expected, "a part is missing");
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
