// The matrix products of a warp, D[16 MT, 8 NT] += A B, under one name for every precision. A and B
// are rows in shared memory, given by their first byte and their stride in bytes. D is spread over
// the lanes as common/tensor_cores.cuh describes, in every precision.

#pragma once

#include "common/pack.cuh"
#include "common/tensor_cores.cuh"
#include "inverted_residual/inverted_residual_plan.h"

namespace sign_ext::block {

__device__ __forceinline__ int lane_of() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_of() { return static_cast<int>(threadIdx.x / 32); }

struct Rows {
  int at;   // byte of the first row
  int row;  // bytes to the next one
};

template <Precision kPrecision>
struct Unit;

// Tensor cores, 16 of the depth at a time.
template <>
struct Unit<Precision::kBFloat16> {
  using Element = __nv_bfloat16;

  template <int MT, int NT>
  __device__ __forceinline__ static void multiply(const unsigned char* shared, Rows a, Rows b,
                                                  int depth, int used, float (&sums)[MT][NT][4]) {
    const int lane = lane_of();
    int a_byte = a.at + lane % 16 * a.row + lane / 16 * 16;
    int b_byte = b.at + lane % 16 * b.row + lane / 16 * 16;
    for (int k = 0; k < depth; k += 16) {
      unsigned int rows[MT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) load_matrices(rows[i], shared, a_byte + 16 * i * a.row);
#pragma unroll
      for (int j = 0; j < NT; j += 2) {
        if (j >= used) continue;
        unsigned int columns[4];
        load_transposed(columns, shared, b_byte + j * 16);
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          multiply_add(sums[i][j], rows[i], columns[0], columns[1]);
          multiply_add(sums[i][j + 1], rows[i], columns[2], columns[3]);
        }
      }
      a_byte += 32;
      b_byte += 16 * b.row;
    }
  }
};

// Tensor cores, 8 of the depth at a time. B is already rounded.
template <>
struct Unit<Precision::kTensorFloat32> {
  using Element = float;

  template <int MT, int NT>
  __device__ __forceinline__ static void multiply(const unsigned char* shared, Rows a, Rows b,
                                                  int depth, int used, float (&sums)[MT][NT][4]) {
    const int lane = lane_of();
    int a_byte = a.at + lane % 16 * a.row + lane / 16 * 16;
    int b_byte = b.at + lane % 4 * b.row + lane / 4 * 4;
    for (int k = 0; k < depth; k += 8) {
      unsigned int rows[MT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        load_matrices(rows[i], shared, a_byte + 16 * i * a.row);
#pragma unroll
        for (int e = 0; e < 4; ++e) rows[i][e] = round_to_tf32(rows[i][e]);
      }
#pragma unroll
      for (int pair = 0; pair < NT; pair += 2) {
        if (pair >= used) continue;
#pragma unroll
        for (int j = pair; j < pair + 2; ++j) {
          const auto* upper = reinterpret_cast<const unsigned int*>(shared + b_byte + j * 32);
          const auto* lower =
              reinterpret_cast<const unsigned int*>(shared + b_byte + 4 * b.row + j * 32);
          const unsigned int columns[2] = {*upper, *lower};
#pragma unroll
          for (int i = 0; i < MT; ++i) {
            multiply_add_tf32(sums[i][j], rows[i], columns[0], columns[1]);
          }
        }
      }
      a_byte += 32;
      b_byte += 8 * b.row;
    }
  }
};

// Plain float32 arithmetic: each lane computes its own elements of D, 4 of the depth at a time.
template <>
struct Unit<Precision::kFloat32> {
  using Element = float;

  template <int MT, int NT>
  __device__ __forceinline__ static void multiply(const unsigned char* shared, Rows a, Rows b,
                                                  int depth, int used, float (&sums)[MT][NT][4]) {
    const int lane = lane_of();
    int a_byte = a.at + lane / 4 * a.row;
    int b_byte = b.at + lane % 4 * 8;
    for (int k = 0; k < depth; k += 4) {
      Pack<float, 4> rows[MT][2];
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          rows[i][half] = load_pack<float, 4>(
              reinterpret_cast<const float*>(shared + a_byte + (16 * i + 8 * half) * a.row));
        }
      }
#pragma unroll
      for (int pair = 0; pair < NT; pair += 2) {
        if (pair >= used) continue;
#pragma unroll
        for (int down = 0; down < 4; ++down) {
#pragma unroll
          for (int j = pair; j < pair + 2; ++j) {
            const auto columns = load_pack<float, 2>(
                reinterpret_cast<const float*>(shared + b_byte + down * b.row + j * 32));
#pragma unroll
            for (int i = 0; i < MT; ++i) {
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                sums[i][j][e] =
                    __fmaf_rn(rows[i][e / 2].values[down], columns.values[e % 2], sums[i][j][e]);
              }
            }
          }
        }
      }
      a_byte += 16;
      b_byte += 4 * b.row;
    }
  }
};

}  // namespace sign_ext::block
