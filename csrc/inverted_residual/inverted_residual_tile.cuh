// What a block of threads does with its tile of whole images in inverted_residual and its
// input-backward (contract, bytes and floor: inverted_residual.h). No torch and no runtime call
// here: nvcc compiles this text for the device, the host compiler the same text for csrc/tests.
//
// There are 8 warps. For each 32 of the expanded channels
//
//   expand     16 rows by 32 channels a warp, from `input` to `expanded`     barrier
//   convolve   two lines a warp, from `expanded` to `middle`                 barrier
//   project    32 rows by up to 64 channels a warp, from `middle` to registers
//
// while the next chunk's weights are copied beside `convolve`.

#pragma once

#include <cstdint>

#include "inverted_residual/inverted_residual_windows.cuh"

namespace sign_ext::block {

constexpr int kRowTiles = kWarpRows / 16;

template <Precision kPrecision, bool kBackward, int kWidest>
class Tile {
 public:
  static constexpr int kColumnTiles = kWidest / 8;
  using Matrix = Unit<kPrecision>;
  using T = typename Matrix::Element;
  static constexpr int kSize = static_cast<int>(sizeof(T));

  __device__ __forceinline__ Tile(const Args& args, const Plan& plan, unsigned char* shared)
      : args_(args), s_(args.sizes), p_(plan), shared_(shared) {}

  __device__ __forceinline__ void run() const {
    load_input();
    begin_weights(0);
    wait_for_copies();
    __syncthreads();
    float sums[kRowTiles][kColumnTiles][4];
    set_to_zero(sums);
    for (int chunk = 0; chunk < p_.chunks; ++chunk) {
      expand(chunk);
      __syncthreads();
      if (chunk + 1 < p_.chunks) begin_weights(chunk + 1);
      convolve(chunk);
      wait_for_copies();
      __syncthreads();
      project(chunk, sums);
    }
    finish(sums);
  }

 private:
  // Computed where they are needed: registers are what the kernel has least of.
  __device__ __forceinline__ std::int64_t first_image() const {
    return std::int64_t{blockIdx.x} * p_.images;
  }
  __device__ __forceinline__ int images() const {
    const std::int64_t left = s_.images - first_image();
    return left < p_.images ? static_cast<int>(left) : p_.images;
  }
  __device__ __forceinline__ int from_rows() const { return images() * s_.from_h * s_.from_w; }
  __device__ __forceinline__ int to_rows() const { return images() * s_.to_h * s_.to_w; }
  __device__ __forceinline__ std::int64_t from_first() const {
    return first_image() * (s_.from_h * s_.from_w);
  }
  __device__ __forceinline__ std::int64_t to_first() const {
    return first_image() * (s_.to_h * s_.to_w);
  }
  __device__ __forceinline__ int weights_at(int chunk) const {
    return p_.weights_at + chunk % 2 * p_.weights_bytes;
  }
  // Bytes of a row of the bits of e and d.
  __device__ __forceinline__ int row_bits() const { return s_.expanded / 8; }

  // `rows` rows of `units` of 16 bytes; zeros where global memory has none.
  __device__ __forceinline__ void copy(const void* global, Rows to, int rows, int units,
                                       int rows_there, int units_there) const {
    const auto* bytes = static_cast<const unsigned char*>(global);
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += kThreads) {
      const int row = i / units;
      const int unit = i % units;
      unsigned char* const target = shared_ + to.at + row * to.row + unit * 16;
      if (row < rows_there && unit < units_there) {
        copy_async_16(target, bytes + (std::int64_t{row} * units_there + unit) * 16);
      } else {
        store_pack(reinterpret_cast<unsigned int*>(target), Pack<unsigned int, 4>{});
      }
    }
  }

  __device__ __forceinline__ void load_input() const {
    const auto* from = static_cast<const T*>(args_.from) + from_first() * s_.from_c;
    copy(from, {p_.input_at, p_.input_row}, p_.from_rows, p_.from_depth * kSize / 16, from_rows(),
         s_.from_c * kSize / 16);
  }

  __device__ __forceinline__ void begin_weights(int chunk) const {
    const int at = weights_at(chunk);
    const int wide = kChunk * kSize / 16;
    const int narrow = p_.to_width * kSize / 16;
    const int taps = s_.kernel_h * s_.kernel_w;
    copy(static_cast<const T*>(args_.first) + std::int64_t{chunk} * p_.from_depth * kChunk,
         {at, p_.first_row}, p_.from_depth, wide, p_.from_depth, wide);
    copy(static_cast<const T*>(args_.second) + std::int64_t{chunk} * kChunk * p_.to_width,
         {at + p_.second_in, p_.second_row}, kChunk, narrow, kChunk, narrow);
    copy(args_.taps + std::int64_t{chunk} * taps * kChunk, {at + p_.taps_in, kChunk * 4}, taps,
         kChunk * 4 / 16, taps, kChunk * 4 / 16);
  }

  __device__ __forceinline__ void expand(int chunk) const {
    if (p_.from_rows > 64) {
      expand_by<4>(chunk);
    } else {
      expand_by<2>(chunk);
    }
  }

  template <int NT>
  __device__ __forceinline__ void expand_by(int chunk) const {
    const int across = kChunk / (8 * NT);
    for (int tile = warp_of(); tile < p_.from_rows / 16 * across; tile += kWarps) {
      expand_tile<NT>(chunk, tile / across * 16, tile % across * 8 * NT);
    }
  }

  // Lane t of each four has byte t of the 8 NT channels' bits, where there is one.
  template <int NT>
  __device__ __forceinline__ std::int64_t bits_at(int chunk, int row, int column) const {
    const int t = lane_of() % 4;
    const int byte = chunk * (kChunk / 8) + column / 8 + t;
    if (t >= NT || row >= from_rows() || byte >= row_bits()) return -1;
    return (from_first() + row) * row_bits() + byte;
  }

  template <int NT>
  __device__ __forceinline__ void expand_tile(int chunk, int row, int column) const {
    const int g = lane_of() / 4;
    const int t = lane_of() % 4;
    std::uint8_t* const bits = args_.bits[0];
    unsigned int words[2] = {~0u, ~0u};
    if (kBackward && bits != nullptr) {  // before the product, so that it hides the wait
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::int64_t at = bits_at<NT>(chunk, row + 8 * half + g, column);
        words[half] = joined(at < 0 ? 0u : static_cast<unsigned int>(bits[at]) << (8 * t));
        words[half] >>= 2 * t;
      }
    }
    float sums[1][NT][4];
    set_to_zero(sums);
    Matrix::multiply(shared_, Rows{p_.input_at + row * p_.input_row, p_.input_row},
                     Rows{weights_at(chunk) + column * kSize, p_.first_row}, p_.from_depth, NT,
                     sums);
    [[maybe_unused]] unsigned int passed[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const int channel = column + 8 * j + 2 * t;
      const Pair bias = kBackward ? Pair{} : load_pair(args_.bias + chunk * kChunk + channel);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Pair pair{{sums[0][j][2 * half], sums[0][j][2 * half + 1]}};
        const int at = p_.expanded_at + (row + 8 * half + g) * p_.wide_row + channel * kSize;
        if constexpr (kBackward) {
          pull_back_pair(words[half] >> (8 * j), pair);
          store_pair(reinterpret_cast<T*>(shared_ + at), pair);
        } else {
          add(bias, pair);
          passed[half] |= activate_and_store(args_.activation[0], pair,
                                             reinterpret_cast<T*>(shared_ + at), true)
                          << (8 * j);
        }
      }
    }
    if constexpr (!kBackward) {
      if (bits == nullptr) return;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned int word = joined(passed[half] << (2 * t));
        const std::int64_t at = bits_at<NT>(chunk, row + 8 * half + g, column);
        if (at >= 0) bits[at] = static_cast<std::uint8_t>(word >> (8 * t));
      }
    }
  }

  __device__ __forceinline__ void convolve(int chunk) const {
    const int pair = lane_of() % 16;
    const int lines = images() * s_.to_h;
    const auto* taps =
        reinterpret_cast<const float*>(shared_ + weights_at(chunk) + p_.taps_in) + 2 * pair;
    const Pair bias =
        kBackward ? Pair{} : load_pair(args_.bias + (p_.chunks + chunk) * kChunk + 2 * pair);
    const int byte = chunk * (kChunk / 8) + pair / 4;
    for (int both = 2 * warp_of(); both < lines; both += 2 * kWarps) {
      // Where the lines are odd in number, half of the last warp repeats its neighbour's, and
      // stores nothing.
      const bool there = both + lane_of() / 16 < lines;
      const int line = there ? both + lane_of() / 16 : both;
      const int image = line / s_.to_h;
      const Plane<T> from{
          shared_, p_.expanded_at + image * s_.from_h * s_.from_w * p_.wide_row + 2 * pair * kSize,
          p_.wide_row, s_.from_h, s_.from_w};
      int middle = p_.middle_at + line * s_.to_w * p_.wide_row + 2 * pair * kSize;
      // The byte of the four lanes, at the line's first position.
      const bool has_bits = args_.bits[1] != nullptr && byte < row_bits();
      std::uint8_t* bits = args_.bits[1];
      if (has_bits) bits += (to_first() + line * s_.to_w) * row_bits() + byte;
      const auto emit = [&](Pair value) {
        add(bias, value);
        store_middle(reinterpret_cast<T*>(shared_ + middle), bits, has_bits, there, value);
        middle += p_.wide_row;
        if (has_bits) bits += row_bits();
      };
      if (slides(s_)) {
        slide_along<kBackward>(s_, from, taps, line % s_.to_h, emit);
      } else {
        gather_along<kBackward>(s_, from, taps, line % s_.to_h, emit);
      }
    }
  }

  // One position's pair of channels behind the windows, and its part of their bits.
  __device__ __forceinline__ void store_middle(T* to, std::uint8_t* bits, bool has_bits, bool there,
                                               Pair value) const {
    const int t = lane_of() % 4;
    if constexpr (kBackward) {
      if (args_.bits[1] != nullptr) {
        pull_back_pair(has_bits ? static_cast<unsigned int>(*bits) >> (2 * t) : 0u, value);
      }
      if (there) store_pair(to, value);
    } else {
      const unsigned int word = activate_and_store(args_.activation[1], value, to, there);
      const unsigned int all = joined(word << (2 * t));
      if (has_bits && there && t == 0) *bits = static_cast<std::uint8_t>(all);
    }
  }

  __device__ __forceinline__ int first_row() const {
    return warp_of() / p_.warps_across * kWarpRows;
  }
  __device__ __forceinline__ int first_column() const {
    return warp_of() % p_.warps_across * p_.columns;
  }
  // Fragments of 8 columns that this warp has.
  __device__ __forceinline__ int fragments() const {
    const int left = p_.to_width - first_column();
    return (left < p_.columns ? left : p_.columns) / 8;
  }

  __device__ __forceinline__ void project(int chunk,
                                          float (&sums)[kRowTiles][kColumnTiles][4]) const {
    if (first_row() >= p_.to_rows || fragments() <= 0) return;
    Matrix::multiply(shared_, Rows{p_.middle_at + first_row() * p_.wide_row, p_.wide_row},
                     Rows{weights_at(chunk) + p_.second_in + first_column() * kSize, p_.second_row},
                     kChunk, fragments(), sums);
  }

  __device__ __forceinline__ void finish(const float (&sums)[kRowTiles][kColumnTiles][4]) const {
    const int g = lane_of() / 4;
    const int t = lane_of() % 4;
    const float* const bias = args_.bias + 2 * p_.chunks * kChunk;
    const auto* added = static_cast<const T*>(args_.added);
    auto* to = static_cast<T*>(args_.to);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row() + 16 * i + 8 * half + g;
        const bool there = row < to_rows();
        const std::int64_t begin = (to_first() + row) * s_.to_c;
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          const int column = first_column() + 8 * j;
          if (j >= fragments() || column >= s_.to_c) continue;
          const int channel = column + 2 * t;
          Pair pair{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
          if (there && added != nullptr) add(load_pair(added + begin + channel), pair);
          T* const at = to + begin + channel;
          if constexpr (kBackward) {
            if (there) store_pair(at, pair);
          } else {
            add(load_pair(bias + channel), pair);
            const unsigned int word =
                joined(activate_and_store(args_.last, pair, at, there) << (2 * t));
            if (args_.last_bits != nullptr && there && t == 0) {
              args_.last_bits[(to_first() + row) * (s_.to_c / 8) + column / 8] =
                  static_cast<std::uint8_t>(word);
            }
          }
        }
      }
    }
  }

  const Args& args_;
  const Sizes& s_;
  const Plan& p_;
  unsigned char* shared_;
};

}  // namespace sign_ext::block
