// The tile of whole images that a thread block processes in inverted_residual and its
// input-backward: its place in global and shared memory, and the copies from one to the other.

#pragma once

#include <cstdint>

#include "inverted_residual/inverted_residual_product.cuh"

namespace sign_ext::block {

template <Precision kPrecision, bool kBackwards>
struct Tile {
  using Matrix = Unit<kPrecision>;
  using T = typename Matrix::Element;
  static constexpr bool kBackward = kBackwards;
  static constexpr int kSize = static_cast<int>(sizeof(T));

  const Args& args;
  const Sizes& s;
  const Plan& p;
  unsigned char* shared;

  __device__ __forceinline__ Tile(const Args& given, const Plan& plan, unsigned char* memory)
      : args(given), s(given.sizes), p(plan), shared(memory) {}

  // Computed on demand, because registers are the kernel's scarcest resource.
  __device__ __forceinline__ std::int64_t first_image() const {
    return std::int64_t{blockIdx.x} * p.images;
  }
  __device__ __forceinline__ int images() const {
    const std::int64_t left = s.images - first_image();
    return left < p.images ? static_cast<int>(left) : p.images;
  }
  __device__ __forceinline__ int from_rows() const { return images() * s.from_h * s.from_w; }
  __device__ __forceinline__ int to_rows() const { return images() * s.to_h * s.to_w; }
  __device__ __forceinline__ std::int64_t from_first() const {
    return first_image() * (s.from_h * s.from_w);
  }
  __device__ __forceinline__ std::int64_t to_first() const {
    return first_image() * (s.to_h * s.to_w);
  }
  __device__ __forceinline__ int weights_at(int chunk) const {
    return p.weights_at + chunk % 2 * p.weights_bytes;
  }
  // Bytes per row of the bits of e and d.
  __device__ __forceinline__ int row_bits() const { return s.expanded / 8; }

  // Copies `rows` rows of `units` 16-byte units. Writes zeros where global memory has no data.
  __device__ __forceinline__ void copy(const void* global, Rows to, int rows, int units,
                                       int rows_there, int units_there) const {
    const auto* bytes = static_cast<const unsigned char*>(global);
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += kThreads) {
      const int row = i / units;
      const int unit = i % units;
      unsigned char* const target = shared + to.at + row * to.row + unit * 16;
      if (row < rows_there && unit < units_there) {
        copy_async_16(target, bytes + (std::int64_t{row} * units_there + unit) * 16);
      } else {
        store_pack(reinterpret_cast<unsigned int*>(target), Pack<unsigned int, 4>{});
      }
    }
  }

  __device__ __forceinline__ void load_input() const {
    const auto* from = static_cast<const T*>(args.from) + from_first() * s.from_c;
    copy(from, {p.input_at, p.input_row}, p.from_rows, p.from_depth * kSize / 16, from_rows(),
         s.from_c * kSize / 16);
  }

  __device__ __forceinline__ void begin_weights(int chunk) const {
    const int at = weights_at(chunk);
    const int wide = kChunk * kSize / 16;
    const int narrow = p.to_width * kSize / 16;
    const int taps = s.kernel_h * s.kernel_w;
    copy(static_cast<const T*>(args.first) + std::int64_t{chunk} * p.from_depth * kChunk,
         {at, p.first_row}, p.from_depth, wide, p.from_depth, wide);
    copy(static_cast<const T*>(args.second) + std::int64_t{chunk} * kChunk * p.to_width,
         {at + p.second_in, p.second_row}, kChunk, narrow, kChunk, narrow);
    copy(args.taps + std::int64_t{chunk} * taps * kChunk, {at + p.taps_in, kChunk * 4}, taps,
         kChunk * 4 / 16, taps, kChunk * 4 / 16);
    if constexpr (!kBackward) {
      copy(args.bias + (p.chunks + chunk) * kChunk, {at + p.bias_in, kChunk * 4}, 1,
           kChunk * 4 / 16, 1, kChunk * 4 / 16);
    }
  }
};

}  // namespace sign_ext::block
