// The CPU kernel for one vector target; see strided_convolution.h. Lanes are output channels.

#include "common/lanes_body.h"

// Blocks of outputs: pixels times vectors of channels, as many sums as fit in registers. Where
// there are enough channels, more vectors load fewer values for each product.
#if SIGN_EXT_VECTOR_BITS == 512
constexpr int kPixelsNarrow = 12;
constexpr int kPixelsWide = 6;
constexpr int kVectorsNarrow = 2;
constexpr int kVectorsWide = 4;
#else
constexpr int kPixelsNarrow = 6;
constexpr int kPixelsWide = 6;
constexpr int kVectorsNarrow = 2;
constexpr int kVectorsWide = 2;
#endif
static_assert(kPixelsNarrow <= kStridedMostPixels && kPixelsWide <= kStridedMostPixels);

struct StridedState {
  const StridedConvolutionArgs& args;
  const StridedPlan& plan;
  const StridedWorkspace& workspace;
};

// Row i of the image's input in the ring, copied first if it is not there yet.
inline const float* strided_ring_row(const StridedState& state, std::int64_t image,
                                     std::int64_t i) {
  const StridedConvolutionArgs& args = state.args;
  const std::int64_t x_row = image * args.height + i;
  const std::int64_t slot = i % state.plan.ring_rows;
  float* const row = state.workspace.ring + slot * state.plan.columns * args.channels;
  if (state.workspace.rows[slot] != x_row) {
    state.workspace.rows[slot] = x_row;
    const std::int64_t kept = state.plan.columns - state.plan.left;
    const std::int64_t columns = args.width < kept ? args.width : kept;
    if (columns > 0) {
      __builtin_memcpy(row + state.plan.left * args.channels,
                       args.x + x_row * args.width * args.channels,
                       static_cast<std::size_t>(columns * args.channels) * sizeof(float));
    }
  }
  return row;
}

// Finds the taps of output row y for its columns `column`, column + stride_w and so on where
// transposed, else for all of its columns. They point at the values for the first of these columns.
inline std::int64_t strided_taps(const StridedState& state, std::int64_t image, std::int64_t y,
                                 std::int64_t column) {
  const StridedConvolutionArgs& args = state.args;
  const std::int64_t plane = args.channels * args.out_channels;
  std::int64_t count = 0;
  for (std::int64_t a = 0; a < args.kernel_h; ++a) {
    const std::int64_t down = args.transposed ? y + args.pad_top - a : 0;
    if (args.transposed && (down < 0 || down % args.stride_h != 0)) continue;
    const std::int64_t i =
        args.transposed ? down / args.stride_h : y * args.stride_h - args.pad_top + a;
    if (i < 0 || i >= args.height) continue;
    const float* const row = strided_ring_row(state, image, i);
    const float* const weight = args.weight + a * args.kernel_w * plane;
    if (!args.transposed) {  // a row of the window is adjacent in memory, and so are its weights
      state.workspace.taps[count++] = {row, weight, args.kernel_w * args.channels};
      continue;
    }
    for (std::int64_t b = 0; b < args.kernel_w; ++b) {
      const std::int64_t across = column + args.pad_left - b;
      if (across % args.stride_w != 0) continue;
      state.workspace.taps[count++] = {
          row + (state.plan.left + across / args.stride_w) * args.channels, weight + b * plane,
          args.channels};
    }
  }
  return count;
}

inline Floats strided_activated(Floats v, const Activation& a) {
  if (a.slope != 0.0f) return select(greater(v, all(0.0f)), v, times(v, all(a.slope)));
  return minimum(all(a.high), maximum(all(a.low), v));
}

// Where the outputs of some columns lie, and how their inputs do.
struct StridedColumns {
  std::int64_t taps;
  std::int64_t pixels;
  std::int64_t step;  // between the inputs of adjacent pixels, in values
  std::int64_t out;   // between their outputs
  std::int64_t at;    // the first output's place in out
};

// Pixels [pixel, pixel + kPixels), of which only those before columns.pixels are stored, times
// channels [k, k + kVectors * kLanes), the last vector's lanes by `span`.
template <int kPixels, int kVectors, typename Span>
SIGN_EXT_INLINE void strided_block(const StridedState& state, const StridedColumns& columns,
                                   std::int64_t pixel, std::int64_t k, Span span) {
  const StridedConvolutionArgs& args = state.args;
  const std::int64_t out_channels = args.out_channels;
  const std::int64_t step = columns.step;
  Floats sum[kPixels][kVectors];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[p][v] = all(0.0f);
  }
  for (std::int64_t t = 0; t < columns.taps; ++t) {
    const StridedTap tap = state.workspace.taps[t];
    // One pointer for three pixels: with the step as an index register they all fit.
    const float* x[(kPixels + 2) / 3];
#pragma GCC unroll 8
    for (int p = 0; p < (kPixels + 2) / 3; ++p) x[p] = tap.x + (pixel + 3 * p) * step;
    const float* weight = tap.weight + k;
    for (std::int64_t c = 0; c < tap.count; ++c) {
      Floats w[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v + 1 < kVectors; ++v) w[v] = load(weight + v * kLanes, Whole{});
      w[kVectors - 1] = load(weight + (kVectors - 1) * kLanes, span);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const Floats value = all(x[p / 3][(p % 3) * step]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[p][v] = times_plus(value, w[v], sum[p][v]);
      }
#pragma GCC unroll 8
      for (int p = 0; p < (kPixels + 2) / 3; ++p) ++x[p];
      weight += out_channels;
    }
  }
  const auto finish = [&](std::int64_t at, int v, Floats value, auto lanes) {
    const std::int64_t channel = k + v * kLanes;
    if (args.bias != nullptr) value = plus(value, load(args.bias + channel, lanes));
    if (args.residual != nullptr) value = plus(value, load(args.residual + at + v * kLanes, lanes));
    store(args.out + at + v * kLanes, strided_activated(value, args.activation), lanes);
  };
  const std::int64_t first = columns.at + pixel * columns.out + k;
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    if (pixel + p >= columns.pixels) break;
#pragma GCC unroll 4
    for (int v = 0; v + 1 < kVectors; ++v) finish(first + p * columns.out, v, sum[p][v], Whole{});
    finish(first + p * columns.out, kVectors - 1, sum[p][kVectors - 1], span);
  }
}

// All pixels, times channels as above. A block of half as many pixels comes last where it suffices.
template <int kPixels, int kVectors, typename Span>
void strided_pixels(const StridedState& state, const StridedColumns& columns, std::int64_t k,
                    Span span) {
  std::int64_t pixel = 0;
  for (; pixel + kPixels / 2 < columns.pixels; pixel += kPixels) {
    strided_block<kPixels, kVectors>(state, columns, pixel, k, span);
  }
  if (pixel < columns.pixels) {
    strided_block<kPixels / 2, kVectors>(state, columns, pixel, k, span);
  }
}

inline void strided_columns(const StridedState& state, const StridedColumns& columns) {
  const std::int64_t channels = state.args.out_channels;
  std::int64_t k = 0;
  for (; k + kVectorsWide * kLanes <= channels; k += kVectorsWide * kLanes) {
    strided_pixels<kPixelsWide, kVectorsWide>(state, columns, k, Whole{});
  }
  for (; k + kVectorsNarrow * kLanes <= channels; k += kVectorsNarrow * kLanes) {
    strided_pixels<kPixelsNarrow, kVectorsNarrow>(state, columns, k, Whole{});
  }
  const auto rest = static_cast<int>(channels - k);
  if (rest > kLanes) {
    strided_pixels<kPixelsNarrow, 2>(state, columns, k, Part{rest - kLanes});
  } else if (rest == kLanes) {
    strided_pixels<kPixelsNarrow, 1>(state, columns, k, Whole{});
  } else if (rest > 0) {
    strided_pixels<kPixelsNarrow, 1>(state, columns, k, Part{rest});
  }
}

// Rows [begin, end) of the output. scratch(bytes) returns 64-byte aligned memory.
void strided_rows(const StridedConvolutionArgs& args, char* (*scratch)(std::size_t),
                  std::int64_t begin, std::int64_t end) {
  const StridedPlan plan = strided_plan(args);
  StridedWorkspace workspace{};
  const std::size_t bytes = strided_workspace(args, plan, 0, &workspace);
  strided_workspace(args, plan, reinterpret_cast<std::uintptr_t>(scratch(bytes)), &workspace);
  __builtin_memset(
      workspace.ring, 0,
      static_cast<std::size_t>(plan.ring_rows * plan.columns * args.channels) * sizeof(float));
  for (std::int64_t slot = 0; slot < plan.ring_rows; ++slot) workspace.rows[slot] = -1;
  const StridedState state{args, plan, workspace};
  const std::int64_t phases = !args.transposed                 ? 1
                              : args.stride_w < args.out_width ? args.stride_w
                                                               : args.out_width;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t column = 0; column < phases; ++column) {
      StridedColumns columns{};
      columns.taps = strided_taps(state, row / args.out_height, row % args.out_height, column);
      columns.pixels =
          args.transposed ? (args.out_width - column + phases - 1) / phases : args.out_width;
      columns.step = (args.transposed ? 1 : args.stride_w) * args.channels;
      columns.out = phases * args.out_channels;
      columns.at = (row * args.out_width + column) * args.out_channels;
      strided_columns(state, columns);
    }
  }
}
