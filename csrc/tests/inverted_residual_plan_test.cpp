// The plan of an inverted residual must do its job: tiles cover all images, arrays do not overlap,
// the product covers every row and column once, rows lie in different banks.

#include "inverted_residual/inverted_residual_plan.h"

#include <set>
#include <string>
#include <vector>

#include "tests/check.h"

namespace {

using namespace sign_ext::block;

constexpr int kH100 = 232448;  // bytes of shared memory; next, those of an A100
constexpr int kA100 = 166912;

constexpr Sizes kFirst{64, 16, 16, 16, 96, 8, 8, 24, 3, 3, 2, 2, 1, 1};
// Plans are constant expressions.
static_assert(plan_of(kFirst, Precision::kBFloat16, kH100, 132).images == 1);
static_assert(plan_for(kFirst, Precision::kBFloat16, 2, kNarrow).images == 0);

std::vector<Sizes> blocks() {
  std::vector<Sizes> all = {kFirst};
  const int sides[] = {1, 2, 3, 4, 7, 8, 14, 16};
  const int channels[] = {8, 16, 24, 40, 64, 96, 160, 320};
  for (const int side : sides) {
    for (const int in : channels) {
      for (const int out : channels) {
        for (const int stride : {1, 2}) {
          const int to = (side - 1) / stride + 1;
          for (const std::int64_t images : {1, 64, 5000}) {
            all.push_back(
                {images, side, side, in, 6 * in, to, to, out, 3, 3, stride, stride, 1, 1});
            all.push_back(
                {images, to, to, out, 6 * in, side, side, in, 3, 3, stride, stride, 1, 1});
          }
        }
      }
    }
  }
  return all;
}

std::string text(const Sizes& s) {
  return std::to_string(s.images) + " images, " + std::to_string(s.from_h) + "², " +
         std::to_string(s.from_c) + " to " + std::to_string(s.to_h) + "², " +
         std::to_string(s.to_c);
}

void for_each_plan(const std::function<void(const Sizes&, Precision, int, const Plan&)>& body) {
  for (const Sizes& s : blocks()) {
    for (const Precision precision :
         {Precision::kFloat32, Precision::kTensorFloat32, Precision::kBFloat16}) {
      for (const int limit : {kH100, kA100}) {
        const Plan plan = plan_of(s, precision, limit, 132);
        if (plan.images > 0) body(s, precision, limit, plan);
      }
    }
  }
}

TEST(every_array_has_its_place) {
  for_each_plan([](const Sizes& s, Precision precision, int limit, const Plan& p) {
    const int size = element_bytes(precision);
    CHECK(p.shared_bytes <= limit, text(s) + ": more shared memory than available");
    CHECK(p.input_at + p.from_rows * p.input_row <= p.expanded_at &&
              p.expanded_at + p.from_rows * p.wide_row <= p.middle_at &&
              p.middle_at + p.to_rows * p.wide_row <= p.weights_at &&
              p.from_depth * p.first_row <= p.second_in &&
              p.second_in + kChunk * p.second_row <= p.taps_in &&
              p.taps_in + 9 * kChunk * 4 <= p.bias_in &&
              p.bias_in + kChunk * 4 <= p.weights_bytes &&
              p.weights_at + 2 * p.weights_bytes <= p.shared_bytes,
          text(s) + ": arrays overlap");
    for (const int at :
         {p.input_at, p.expanded_at, p.middle_at, p.weights_at, p.second_in, p.taps_in,
          p.weights_bytes, p.input_row, p.wide_row, p.first_row, p.second_row}) {
      CHECK(at % 16 == 0, text(s) + ": not 16-byte aligned");
    }
    CHECK(p.from_depth >= s.from_c && p.from_depth % 16 == 0 && p.to_width >= s.to_c &&
              p.input_row >= p.from_depth * size && p.second_row >= p.to_width * size,
          text(s) + ": too few channels");
    CHECK(p.from_rows >= p.images * s.from_h * s.from_w &&
              p.to_rows >= p.images * s.to_h * s.to_w && p.from_rows % 32 == 0,
          text(s) + ": too few rows");
  });
}

TEST(the_second_product_has_each_row_and_column_once) {
  for_each_plan([](const Sizes& s, Precision, int, const Plan& p) {
    std::set<std::pair<int, int>> parts;
    for (int warp = 0; warp < kWarps; ++warp) {
      const int row = warp / p.warps_across * kWarpRows;
      const int first = warp % p.warps_across * p.columns;
      for (int column = first; column < first + p.columns && column < p.to_width; column += 8) {
        if (row < p.to_rows) CHECK(parts.emplace(row, column).second, text(s) + ": twice");
      }
    }
    CHECK(static_cast<int>(parts.size()) == p.to_rows / kWarpRows * p.to_width / 8,
          text(s) + ": the product is not covered");
    CHECK(p.columns <= p.widest && p.columns % 16 == 0, text(s) + ": too many columns per warp");
  });
}

// 8 rows of 16 bytes are read at once; of TF32 weights, 4 rows of 8 adjacent words.
TEST(rows_that_are_read_together_lie_in_different_banks) {
  for_each_plan([](const Sizes& s, Precision precision, int, const Plan& p) {
    std::vector<int> by_eight = {p.input_row, p.wide_row};
    if (precision == Precision::kBFloat16) {
      by_eight.insert(by_eight.end(), {p.first_row, p.second_row});
    } else {
      for (const int row : {p.first_row, p.second_row}) {
        std::set<int> banks;
        for (int r = 0; r < 4; ++r) {
          for (int word = 0; word < 8; ++word) banks.insert((r * row / 4 + word) % 32);
        }
        CHECK(banks.size() == 32, text(s) + ": four rows share a bank");
      }
    }
    for (const int row : by_eight) {
      std::set<int> banks;
      for (int r = 0; r < 8; ++r) banks.insert(r * row / 16 % 8);
      CHECK(banks.size() == 8, text(s) + ": eight rows share a bank");
    }
  });
}

TEST(quotients_are_those_of_a_division) {
  for (int n = 1; n <= kMostRows; ++n) {
    for (int row = 0; row <= kMostRows; ++row) {
      CHECK(quotient(row, one_over(n)) == row / n, std::to_string(row) + " / " + std::to_string(n));
    }
  }
}

TEST(parts_of_lines_cover_them) {
  for_each_plan([](const Sizes& s, Precision, int, const Plan& p) {
    CHECK(p.part_length << p.line_parts >= s.to_w, text(s) + ": positions in no part");
    CHECK(p.line_parts == 0 || p.images * s.to_h << (p.line_parts - 1) < 4 * kWarps,
          text(s) + ": more parts than lanes");
  });
}

TEST(tiles_are_as_large_as_the_multiprocessors_allow) {
  const auto images = [](std::int64_t count, int side) {
    const Sizes s{count, side, side, 64, 384, side, side, 64, 3, 3, 1, 1, 1, 1};
    return plan_of(s, Precision::kBFloat16, kH100, 132).images;
  };
  CHECK(images(64, 2) == 8, "32 rows at least");
  CHECK(images(1 << 20, 2) == 32, "128 rows of 64 channels");
  CHECK(images(132 * 16, 2) == 16, "a tile for each multiprocessor");
  CHECK(images(132 * 20, 2) == 24, "as many as fit in 96 rows, as 80 are no faster");
  CHECK(images(100, 16) == 1 && images(100, 17) == 0, "256 rows at most");
}

TEST(two_blocks_share_a_multiprocessor_where_tiles_can_be_smaller) {
  const Sizes s{4096, 8, 8, 24, 144, 8, 8, 24, 3, 3, 1, 1, 1, 1};
  const Plan small = plan_of(s, Precision::kFloat32, kH100, 132);
  CHECK(small.images == 3 && 2 * (small.shared_bytes + 1024) <= kH100 + 1024, "3 images of 4");
  CHECK(plan_of(s, Precision::kBFloat16, kH100, 132).images == 4,
        "4 do not fit in half of the memory");
  const Sizes large{4096, 16, 16, 24, 144, 16, 16, 24, 3, 3, 1, 1, 1, 1};
  const Plan alone = plan_of(large, Precision::kFloat32, kH100, 132);
  CHECK(alone.images == 1 && 2 * (alone.shared_bytes + 1024) > kH100 + 1024, "no smaller tile");
}

// The blocks of MobileNetV2 after its stem, on 32x32 and on 224x224 images.
TEST(the_blocks_of_mobilenet_that_fit) {
  struct Case {
    int side, in, out, stride;
    bool fits;
  };
  const Case cases[] = {{16, 16, 24, 2, true},  {8, 24, 24, 1, true},    {8, 24, 32, 2, true},
                        {4, 32, 64, 2, true},   {2, 64, 96, 1, true},    {2, 96, 160, 2, true},
                        {1, 160, 160, 1, true}, {1, 160, 320, 1, true},  {56, 24, 32, 2, false},
                        {14, 64, 64, 1, true},  {14, 96, 160, 2, false}, {7, 160, 320, 1, false}};
  for (const Case& c : cases) {
    const int to = (c.side - 1) / c.stride + 1;
    const Sizes s{1024,  c.side, c.side, c.in,     6 * c.in, to, to,
                  c.out, 3,      3,      c.stride, c.stride, 1,  1};
    Sizes back = s;
    std::swap(back.from_h, back.to_h);
    std::swap(back.from_w, back.to_w);
    std::swap(back.from_c, back.to_c);
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      const bool fits = plan_of(s, precision, kH100, 132).images > 0 &&
                        plan_of(back, precision, kH100, 132).images > 0;
      CHECK(fits == c.fits, text(s) + (fits ? " fits" : " does not fit"));
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
