// What the CUDA pooling kernels share: division by multiplication, a thread's place, and launches
// that cover more than 2^31 groups of channels.

#include "common/pool_kernel.cuh"

#include <cstdint>
#include <random>
#include <string>

#include "tests/check.h"
#include "tests/pool_problems.h"

namespace {

using sign_ext::PoolGrid;
using sign_ext::PoolPlace;
using sign_ext::PoolWindow;

std::uint32_t draw(std::mt19937& random) { return static_cast<std::uint32_t>(random()); }

TEST(division_by_multiplication) {
  std::mt19937 random(7);
  for (int round = 0; round < 4000; ++round) {
    const std::uint32_t divisor = round < 1000 ? static_cast<std::uint32_t>(round) + 1
                                               : (draw(random) >> (1 + draw(random) % 31)) | 1u;
    const sign_ext::Divisor by = sign_ext::divisor_of(divisor);
    const auto check_one = [&](std::uint32_t n) {
      CHECK(sign_ext::divide(n, by) == n / divisor,
            std::to_string(n) + " / " + std::to_string(divisor));
    };
    for (const std::uint32_t n : {0u, 1u, divisor - 1, divisor, 0x7ffffffeu, 0x7fffffffu}) {
      check_one(n);
    }
    for (int i = 0; i < 20; ++i) {
      const std::uint32_t n = draw(random) >> 1;
      check_one(n);
      check_one(n - n % divisor);
    }
  }
}

struct Shape {
  std::int64_t n, channels;
  int height, width;
};

// The place of a thread by plain divisions of its number among all launches' threads.
void check_place(const Shape& shape, const PoolGrid& grid, std::uint32_t thread) {
  const std::int64_t groups = (shape.channels + 7) / 8;
  const std::int64_t number =
      grid.first_image * shape.height * shape.width * groups + std::int64_t{thread};
  const PoolPlace place = sign_ext::pool_place(grid, thread);
  const std::int64_t position = number / groups;
  CHECK(place.position == position && place.group == number % groups &&
            place.column == position % shape.width &&
            place.row == position / shape.width % shape.height &&
            place.image == position / shape.width / shape.height,
        "the place of thread " + std::to_string(thread));
  const std::int64_t left = shape.channels - 8 * place.group;
  CHECK(place.count == (left < 8 ? left : 8), "the number of channels");
}

TEST(launches_cover_every_image_once) {
  const PoolWindow window{pool_test::axis(8, 2, 2, 0), pool_test::axis(8, 2, 2, 0)};
  std::mt19937 random(3);
  for (const Shape& shape :
       {Shape{0, 8, 3, 3}, Shape{1, 1, 1, 1}, Shape{3, 22, 5, 7}, Shape{5, 8, 1 << 15, 1 << 15},
        Shape{1 << 20, 2048, 35, 35}, Shape{1 << 30, 64, 3, 2}}) {
    std::int64_t next = 0;
    sign_ext::pool_for_each_launch(
        shape.n, shape.channels, shape.height, shape.width, window,
        [&](const PoolGrid& grid, unsigned int blocks) {
          const std::int64_t per_image =
              (shape.channels + 7) / 8 * shape.height * std::int64_t{shape.width};
          CHECK(grid.first_image == next, "launches follow each other");
          CHECK(grid.threads % per_image == 0 && grid.threads <= 0x7fffffffu, "whole images");
          CHECK(std::uint64_t{blocks} * sign_ext::kPoolThreads >= grid.threads &&
                    std::uint64_t{blocks - 1} * sign_ext::kPoolThreads < grid.threads,
                "as many blocks as threads need");
          next += grid.threads / per_image;
          check_place(shape, grid, 0);
          check_place(shape, grid, grid.threads - 1);
          for (int i = 0; i < 20; ++i) check_place(shape, grid, draw(random) % grid.threads);
        });
    CHECK(next == shape.n, "all images are covered");
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
