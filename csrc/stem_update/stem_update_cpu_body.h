// The CPU kernel for one vector target; see stem_update.h and stem_update_plan.h. Lanes are
// channels of g. The sums over them, for a few adjacent pixels and all channels of the image, stay
// in registers across all taps, so each vector of weights is loaded once for all of those pixels.

#include "common/lanes_body.h"
#include "stem_update/stem_update_lanes_body.h"

namespace {

struct StemState {
  const StemUpdateArgs& args;
  const StemPlan& plan;
  const StemWorkspace& workspace;
  const float* weight;  // with its channels rounded up
};

// Converts a row of g to the ring's format.
template <typename Storage>
void unpack_row(const StemState& state, std::int64_t g_row, float* to) {
  const StemUpdateArgs& args = state.args;
  const std::int64_t kept = state.plan.columns - state.plan.left;
  const std::int64_t columns = args.out_width < kept ? args.out_width : kept;
  const std::int64_t whole = args.channels / kLanes * kLanes;
  const Part rest{static_cast<int>(args.channels - whole)};
  const std::int64_t mask_bytes = mask_row_bytes(args.channels);
  const Floats slope = all(args.slope);
  const Storage* from =
      static_cast<const Storage*>(args.g) + g_row * args.out_width * args.channels;
  const std::uint8_t* mask =
      args.mask == nullptr ? nullptr : args.mask + g_row * args.out_width * mask_bytes;
  to += state.plan.left * state.plan.channels;
  for (std::int64_t column = 0; column < columns; ++column) {
    const auto move = [&](std::int64_t channel, auto span) {
      prefetch(from + channel + args.out_width * args.channels);  // the next row, needed next
      Floats value = load(from + channel, span);
      if (mask != nullptr) {
        const Bits bits = load_bits(mask + channel / 8, span);
        value =
            args.slope == 0.0f ? or_zero(bits, value) : select(bits, value, times(value, slope));
      }
      store(to + channel, value, Whole{});
    };
    for (std::int64_t channel = 0; channel < whole; channel += kLanes) move(channel, Whole{});
    if (rest.count > 0) move(whole, rest);
    from += args.channels;
    to += state.plan.channels;
    if (mask != nullptr) mask += mask_bytes;
  }
}

// Row i of the image's g in the ring, converted first if it is not there yet.
SIGN_EXT_INLINE const float* ring_row(const StemState& state, std::int64_t image, std::int64_t i) {
  const std::int64_t g_row = image * state.args.out_height + i;
  const std::int64_t slot = i % state.plan.ring_rows;
  float* const row = state.workspace.ring + slot * state.plan.columns * state.plan.channels;
  if (state.workspace.rows[slot] != g_row) {
    state.workspace.rows[slot] = g_row;
    if (state.args.type == ElementType::kFloat32) {
      unpack_row<float>(state, g_row, row);
    } else {
      unpack_row<std::uint16_t>(state, g_row, row);
    }
  }
  return row;
}

// Finds the taps of row y that apply to columns `column`, column + stride_w and so on. Their
// positions in the ring are those for the first of these columns.
std::int64_t find_taps(const StemState& state, std::int64_t image, std::int64_t y,
                       std::int64_t column) {
  const StemUpdateArgs& args = state.args;
  std::int64_t count = 0;
  for (std::int64_t a = 0; a < args.kernel_h; ++a) {
    const std::int64_t down = y + args.pad_top - a * args.dilation_h;
    if (down < 0 || down % args.stride_h != 0 || down / args.stride_h >= args.out_height) continue;
    const float* const row = ring_row(state, image, down / args.stride_h);
    for (std::int64_t b = 0; b < args.kernel_w; ++b) {
      const std::int64_t across = column + args.pad_left - b * args.dilation_w;
      if (across % args.stride_w != 0) continue;
      StemTap& tap = state.workspace.taps[count++];
      tap.g = row + (state.plan.left + across / args.stride_w) * state.plan.channels;
      tap.weight = state.weight + (a * args.kernel_w + b) * args.in_channels * state.plan.channels;
    }
  }
  return count;
}

// sums[i * kChannels + c] for adjacent pixels, the first of them `pixel` pixels after the one that
// the taps point at. kWide is the number of g's channels if known at compile time, or 0.
template <int kPixels, int kChannels, int kWide>
SIGN_EXT_INLINE void sum_taps(const StemTap* taps, std::int64_t count, std::int64_t padded,
                              std::int64_t pixel, std::int64_t first, float* sums) {
  const std::int64_t channels = kWide != 0 ? kWide : padded;
  Floats sum[kPixels * kChannels];
#pragma GCC unroll 32
  for (int i = 0; i < kPixels * kChannels; ++i) sum[i] = all(0.0f);
  for (std::int64_t t = 0; t < count; ++t) {
    const float* const g = taps[t].g + pixel * channels;
    const float* const weight = taps[t].weight + first * channels;
#pragma GCC unroll 2
    for (std::int64_t o = 0; o < channels; o += kLanes) {
      Floats w[kChannels];
#pragma GCC unroll 32
      for (int c = 0; c < kChannels; ++c) w[c] = load(weight + c * channels + o, Whole{});
#pragma GCC unroll 32
      for (int i = 0; i < kPixels; ++i) {
        const Floats value = in_register(load(g + i * channels + o, Whole{}));
#pragma GCC unroll 32
        for (int c = 0; c < kChannels; ++c) {
          sum[i * kChannels + c] = times_plus(value, w[c], sum[i * kChannels + c]);
        }
      }
    }
  }
  store_sums<kPixels * kChannels>(sums, sum);
}

// Computes delta for channels [first, first + kChannels) of columns `column`, column + stride_w and
// so on.
template <int kChannels, int kWide>
void sum_columns(const StemState& state, std::int64_t taps, std::int64_t column,
                 std::int64_t first) {
  constexpr int kPixels = stem_pixels<kChannels>();
  static_assert(kPixels <= kStemMostPixels && kPixels * kChannels <= kStemMostSums);
  const StemUpdateArgs& args = state.args;
  const std::int64_t pixels = (args.width - column + args.stride_w - 1) / args.stride_w;
  const bool dense = args.stride_w == 1 && args.in_channels == kChannels;
  for (std::int64_t pixel = 0; pixel < pixels; pixel += kPixels) {
    float sums[kPixels * kChannels];
    float* const to = dense ? state.workspace.delta + pixel * kChannels : sums;
    sum_taps<kPixels, kChannels, kWide>(state.workspace.taps, taps, state.plan.channels, pixel,
                                        first, to);
    if (dense) continue;
    for (std::int64_t i = 0; i < kPixels && pixel + i < pixels; ++i) {
      float* const delta =
          state.workspace.delta + (column + (pixel + i) * args.stride_w) * args.in_channels + first;
      for (int c = 0; c < kChannels; ++c) delta[c] = sums[i * kChannels + c];
    }
  }
}

template <int kChannels>
void sum_columns_of(const StemState& state, std::int64_t taps, std::int64_t column,
                    std::int64_t first) {
  if constexpr (kChannels == 3) {  // RGB, and the common channel counts
    if (state.plan.channels == 32) return sum_columns<3, 32>(state, taps, column, first);
    if (state.plan.channels == 64) return sum_columns<3, 64>(state, taps, column, first);
  }
  sum_columns<kChannels, 0>(state, taps, column, first);
}

void sum_row(const StemState& state, std::int64_t image, std::int64_t y) {
  const StemUpdateArgs& args = state.args;
  for (std::int64_t column = 0; column < args.stride_w && column < args.width; ++column) {
    const std::int64_t taps = find_taps(state, image, y, column);
    std::int64_t c = 0;
    for (; c + 4 <= args.in_channels; c += 4) sum_columns_of<4>(state, taps, column, c);
    switch (args.in_channels - c) {
      case 3:
        sum_columns_of<3>(state, taps, column, c);
        break;
      case 2:
        sum_columns_of<2>(state, taps, column, c);
        break;
      case 1:
        sum_columns_of<1>(state, taps, column, c);
        break;
      default:
        break;
    }
  }
}

// Updates a row of the image with its delta.
template <bool kVelocity, bool kWatch>
void update_row(const StemState& state, std::int64_t row, int* watch) {
  const StemUpdateArgs& args = state.args;
  const std::int64_t count = args.width * args.in_channels;
  const float* const delta = state.workspace.delta;
  float* const p = args.p + row * count;
  float* const velocity = kVelocity ? args.velocity + row * count : nullptr;
  const Floats step = all(args.step_size), momentum = all(args.momentum);
  const Floats low = all(args.clamp_min), high = all(args.clamp_max);
  Ints most_delta = all(0), most_moved = all(0);
  const auto move = [&](std::int64_t i, auto span) {
    const Floats d = load(delta + i, span);
    Floats v = d;
    if constexpr (kVelocity) {
      v = times_plus(momentum, load(velocity + i, span), d);
      store(velocity + i, v, span);
    }
    const Floats moved = times_plus(step, v, load(p + i, span));
    if constexpr (kWatch) {
      most_delta = larger(most_delta, magnitude_bits(d));
      most_moved = larger(most_moved, magnitude_bits(or_zero(lanes_of(span), moved)));
    }
    store(p + i, minimum(high, maximum(low, moved)), span);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) move(i, Whole{});
  if (i < count) move(i, Part{static_cast<int>(count - i)});
  if constexpr (kWatch) {
    const int d = largest(most_delta), moved = largest(most_moved);
    watch[0] = d > watch[0] ? d : watch[0];
    watch[1] = moved > watch[1] ? moved : watch[1];
  }
}

void clear_borders(const StemPlan& plan, std::int64_t out_width, const StemWorkspace& workspace) {
  const std::int64_t past = plan.left + out_width;
  for (std::int64_t slot = 0; slot < plan.ring_rows; ++slot) {
    workspace.rows[slot] = -1;
    float* const row = workspace.ring + slot * plan.columns * plan.channels;
    for (std::int64_t i = 0; i < plan.left * plan.channels; ++i) row[i] = 0.0f;
    for (std::int64_t i = past * plan.channels; i < plan.columns * plan.channels; ++i) {
      row[i] = 0.0f;
    }
  }
}

// Copies the weights, zero-padded to the rounded-up channels.
void pad_weight(const StemUpdateArgs& args, std::int64_t channels, float* padded) {
  const std::int64_t vectors = args.kernel_h * args.kernel_w * args.in_channels;
  for (std::int64_t v = 0; v < vectors; ++v) {
    for (std::int64_t o = 0; o < channels; ++o) {
      padded[v * channels + o] = o < args.channels ? args.weight[v * args.channels + o] : 0.0f;
    }
  }
}

// Rows [begin, end) of the images. scratch(bytes) returns 64-byte aligned memory; `watch` receives
// the bits of the two maxima.
void stem_update_rows(const StemUpdateArgs& args, char* (*scratch)(std::size_t), std::int64_t begin,
                      std::int64_t end, int* watch) {
  const StemPlan plan = stem_plan(args, kLanes);
  StemWorkspace workspace{};
  const std::size_t bytes = stem_workspace(args, plan, 0, &workspace);
  stem_workspace(args, plan, reinterpret_cast<std::uintptr_t>(scratch(bytes)), &workspace);
  clear_borders(plan, args.out_width, workspace);
  if (plan.pad_weight) pad_weight(args, plan.channels, workspace.weight);
  const StemState state{args, plan, workspace, plan.pad_weight ? workspace.weight : args.weight};
  for (std::int64_t row = begin; row < end; ++row) {
    sum_row(state, row / args.height, row % args.height);
    if (args.watch != nullptr) {
      args.velocity != nullptr ? update_row<true, true>(state, row, watch)
                               : update_row<false, true>(state, row, watch);
    } else {
      args.velocity != nullptr ? update_row<true, false>(state, row, watch)
                               : update_row<false, false>(state, row, watch);
    }
  }
}

}  // namespace
