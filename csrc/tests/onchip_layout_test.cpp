// onchip's index maps must do their job: no two elements in one place, no two rows in one bank,
// every position of every window in one lane, and the same convolution in both directions.

#include "onchip/onchip_layout.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/check.h"

namespace {

using namespace sign_ext::onchip;

// The maps are constant expressions, so a wrong plan could be rejected at compile time.
static_assert(swizzled(0, 0) == 0 && swizzled(128, 0) == 128 + 16 && swizzled(1024, 0) == 1024);
static_assert(swizzled(128, 1) == 128 && swizzled(256, 1) == 256 + 16);
static_assert(shift_for(32, 2) == 0 && shift_for(64, 1) == 0 && shift_for(64, 2) == 1);
static_assert(divide_up(0, 8) == 0 && divide_up(9, 8) == 2);
static_assert(forward_taps(0, 3, 1, 1, 32) == 6 && backward_taps(0, 3, 1, 1, 32) == 3);
static_assert(residue_at(3, 1, 2, 3) == 21);

TEST(elements_have_places_of_their_own) {
  for (const int channels : {8, 16, 24, 32, 40, 64, 136}) {
    for (const int rows : {1, 7, 64, 129}) {
      for (const int shift : {0, 1, 2}) {
        std::set<int> places;
        const int bytes = divide_up(rows * channels * 2, 128) * 128;  // rounded up as in the plan
        for (int row = 0; row < rows; ++row) {
          for (int c = 0; c < channels; ++c) {
            const int at = element_at(row, c, channels, shift);
            CHECK(at >= 0 && at + 2 <= bytes && at % 2 == 0, "outside the array");
            CHECK(places.insert(at).second, "two elements in one place");
            // A chunk stays contiguous.
            CHECK(at == element_at(row, c / 8 * 8, channels, shift) + c % 8 * 2,
                  "a chunk is split");
          }
        }
      }
    }
  }
}

// The 8 rows of a matrix are read at once: 16 bytes each, 128 bytes in different banks.
TEST(rows_that_are_read_together_lie_in_different_banks) {
  for (const int channels : {8, 16, 32, 64, 128}) {
    for (const int apart : {1, 2}) {  // adjacent positions, and those of pooled 2x2 windows
      if (channels == 8 && apart == 2) continue;  // 8 chunks in the same half of each line
      const int shift = shift_for(channels, apart);
      // Each time one whole line further; taps shift the 8 rows relative to the lines.
      for (int first = 0; first < 64; first += channels < 64 ? 64 / channels : 1) {
        for (int chunk = 0; chunk < channels / 8; ++chunk) {
          std::set<int> banks;
          for (int i = 0; i < 8; ++i) {
            banks.insert(element_at(first + i * apart, chunk * 8, channels, shift) % 128 / 16);
          }
          CHECK(banks.size() == 8, "rows of " + std::to_string(channels) + " channels, " +
                                       std::to_string(apart) + " apart, share a bank");
        }
      }
    }
  }
}

TEST(a_lane_holds_whole_windows) {
  std::set<std::pair<int, int>> seen;
  for (int pair = 0; pair < 4; ++pair) {
    for (int g = 0; g < 8; ++g) {
      for (int position = 0; position < 4; ++position) {
        // Fragments 2 pair and 2 pair + 1, rows g and g + 8: where the forward tile expects it.
        const PooledRow row = pooled_row(32 * pair + 16 * (position / 2) + 8 * (position % 2) + g);
        CHECK(row.window == 8 * pair + g && row.position == position, "wrong window");
        seen.insert({row.window, row.position});
      }
    }
  }
  CHECK(seen.size() == 128, "a position is missing");
}

// Lane 8j + i gives the address of row i of matrix j. Registers are (rows 0, k 0), (8, 0), (0, 8),
// (8, 8) for A, and k before columns for B.
TEST(lanes_address_the_rows_of_fragments) {
  for (int lane = 0; lane < 32; ++lane) {
    const int matrix = lane / 8;
    const int i = lane % 8;
    CHECK(a_row(lane) == 8 * (matrix % 2) + i && a_chunk(lane) == matrix / 2, "A");
    CHECK(b_row(lane) == 8 * (matrix % 2) + i && b_row_column_chunk(lane) == matrix / 2, "B, rows");
    CHECK(b_column(lane) == 8 * (matrix / 2) + i && b_column_chunk(lane) == matrix % 2,
          "B, columns");
  }
}

TEST(residue_words_hold_each_bit_in_its_byte) {
  for (int t = 0; t < 4; ++t) {
    for (int winner = 0; winner < 4; ++winner) {
      for (int pass = 0; pass < 2; ++pass) {
        const unsigned int first = residue_word(t, pass != 0, false, winner, 0);
        const unsigned int second = residue_word(t, false, pass != 0, 0, winner);
        const unsigned int bits = static_cast<unsigned int>(pass) |
                                  static_cast<unsigned int>(winner & 1) << 8 |
                                  static_cast<unsigned int>(winner >> 1) << 16;
        CHECK(first == bits << (2 * t) && second == bits << (2 * t + 1),
              "a bit is in the wrong place");
      }
    }
  }
}

// The input that an output reads through a tap, or -1.
int read_by(int out, int tap, int stride, int pad, int size) {
  const int in = out * stride - pad + tap;
  return in >= 0 && in < size ? in : -1;
}

TEST(taps_are_divided_by_strides) {
  for (int stride = 1; stride <= 64; ++stride) {
    for (int tap = 0; tap < 2 * kMostTaps; ++tap) {
      CHECK(times(tap, one_over(stride)) == tap / stride, "wrong quotient");
    }
  }
}

TEST(taps_lead_to_the_other_end_of_each_window) {
  for (const int size : {1, 2, 5, 8, 20}) {
    for (const int stride : {1, 2, 3}) {
      for (const int pad : {-1, 0, 1, 2}) {
        for (const int kernel : {1, 2, 3, 5, 16}) {
          const int outs = (size + 2 * pad - kernel) / stride + 1;
          if (size + 2 * pad < kernel) continue;
          for (int tap = 0; tap < kernel; ++tap) {
            for (int out = 0; out < outs; ++out) {
              const int expected = read_by(out, tap, stride, pad, size);
              const bool there = (forward_taps(out, kernel, stride, pad, size) >> tap & 1u) != 0;
              CHECK(there == (expected >= 0), "forward: a tap's bit");
              CHECK(!there || forward_begin(out, stride, pad) + tap == expected, "forward");
            }
            for (int in = 0; in < size; ++in) {
              int expected = -1;
              for (int out = 0; out < outs; ++out) {
                if (read_by(out, tap, stride, pad, size) == in) expected = out;
              }
              const bool there = (backward_taps(in, kernel, stride, pad, outs) >> tap & 1u) != 0;
              CHECK(there == (expected >= 0), "backward: a tap's bit");
              CHECK(!there || backward_begin(in, stride, pad) - tap / stride == expected,
                    "backward");
            }
          }
          for (int out = 0; out < outs; ++out) {
            CHECK(forward_taps(out, kernel, stride, pad, size) >> kernel == 0,
                  "a tap past the kernel");
          }
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
