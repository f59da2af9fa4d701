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
static_assert(forward_taps(0, 3, 1, 1, 32) == 6 && backward_taps(0, 3, stride_of(1), 1, 32) == 3);
static_assert(residue_at(3, 1, 1, 2, 3) == 21 && residue_bytes(5, 16, 1) == 12);
static_assert(mask_selector(0) == 0xcc88 && mask_selector(3) == 0xffbb);

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

TEST(planes_have_bytes_of_their_own) {
  for (const int channels : {16, 32, 48}) {
    for (const int kept : {1, 3}) {
      const int chunks = channels / kChunk;
      const int bytes = residue_bytes(7, channels, kept);
      CHECK(bytes % 4 == 0, "the next layer's planes are not aligned");
      std::set<int> places;
      for (int pixel = 0; pixel < 7; ++pixel) {
        for (int plane = 0; plane < kept; ++plane) {
          for (int chunk = 0; chunk < chunks; ++chunk) {
            const int at = residue_at(pixel, plane, chunk, chunks, kept);
            CHECK(at >= 0 && at < bytes, "outside the planes");
            CHECK(places.insert(at).second, "two chunks in one place");
            // A tile's chunks, 4 or 2, are one aligned access.
            const int wide = channels % 32 == 0 ? 4 : 2;
            CHECK(at - residue_at(pixel, plane, chunk / wide * wide, chunks, kept) == chunk % wide,
                  "a tile's chunks are apart");
            CHECK(chunk % wide != 0 || at % wide == 0, "a tile's chunks are not aligned");
          }
        }
      }
    }
  }
}

// In the word of a plane: the bit of channel 2t + c of chunk j, by itself and among all others.
TEST(a_lane_finds_its_bits_in_a_plane) {
  for (int t = 0; t < 4; ++t) {
    for (int j = 0; j < 4; ++j) {
      for (int c = 0; c < 2; ++c) {
        const unsigned int bit = 1u << (8 * j + 2 * t + c);
        CHECK(plane_bit(j, c) << (2 * t) == bit, "a bit is in the wrong place");
        for (const unsigned int word : {bit, ~bit}) {
          const PairBits bits = pair_bits(word, t);
          const unsigned int found = (c == 0 ? bits.first : bits.second) >> (8 * j + 7) & 1u;
          CHECK(found == (word == bit ? 1u : 0u), "a bit is not the highest of its byte");
        }
      }
    }
  }
}

TEST(positions_are_divided_by_extents) {
  for (int by = 1; by <= 300; ++by) {
    for (int n = 0; n < 1 << 16; n += n < 4096 ? 1 : 61) {
      CHECK(quotient(n, divider(by)) == n / by, "wrong quotient");
    }
  }
  for (const int by : {1, 2, 255, 257, 4095, 65535}) {
    for (int n = 0; n < 1 << 16; ++n) CHECK(quotient(n, divider(by)) == n / by, "wrong quotient");
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
    for (const int stride : {1, 2, 3, 17}) {
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
              const bool there =
                  (backward_taps(in, kernel, stride_of(stride), pad, outs) >> tap & 1u) != 0;
              CHECK(there == (expected >= 0), "backward: a tap's bit");
              CHECK(!there || backward_begin(in, stride_of(stride), pad) - tap / stride == expected,
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
