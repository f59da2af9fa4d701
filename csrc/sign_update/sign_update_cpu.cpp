// The CPU kernel: simple loops over plain arrays, which the compiler vectorises.

#include <algorithm>
#include <cstdint>

#include "common/half_bits.h"
#include "common/watch_cpu.h"
#include "sign_update/sign_update.h"

namespace sign_ext {
namespace {

struct Float32 {
  using Storage = float;
  static float widen(Storage value) { return value; }
};

struct BFloat16 {
  using Storage = std::uint16_t;
  static float widen(Storage bits) { return bfloat16_bits_to_float(bits); }
};

struct Float16 {
  using Storage = std::uint16_t;
  static float widen(Storage bits) { return float16_bits_to_float(bits); }
};

// NaN fails both comparisons and passes through.
inline float clamped(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Callers reject overlapping arrays, so __restrict holds and nothing needs a run-time check.
template <typename Delta, bool kVelocity, bool kWatch>
void update(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  float* __restrict p = args.p;
  float* __restrict velocity = args.velocity;
  const auto* __restrict delta = static_cast<const typename Delta::Storage*>(args.delta);
  const float step = args.step_size;
  const float momentum = args.momentum;
  const float low = args.clamp_min;
  const float high = args.clamp_max;
  std::int32_t most_delta = 0;
  std::int32_t most_moved = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const float d = Delta::widen(delta[i]);
    float v = d;
    if constexpr (kVelocity) {
      v = momentum * velocity[i] + d;
      velocity[i] = v;
    }
    const float moved = p[i] + step * v;
    if constexpr (kWatch) {
      most_delta = std::max(most_delta, magnitude_bits_of(d));
      most_moved = std::max(most_moved, magnitude_bits_of(moved));
    }
    p[i] = clamped(moved, low, high);
  }
  if constexpr (kWatch) {
    raise_to(args.watch, most_delta);
    raise_to(args.watch + 1, most_moved);
  }
}

template <typename Delta, bool kVelocity>
void choose_watch(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.watch != nullptr) {
    update<Delta, kVelocity, true>(args, begin, end);
  } else {
    update<Delta, kVelocity, false>(args, begin, end);
  }
}

template <typename Delta>
void dispatch(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.velocity != nullptr) {
    choose_watch<Delta, true>(args, begin, end);
  } else {
    choose_watch<Delta, false>(args, begin, end);
  }
}

}  // namespace

void sign_update_cpu(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.delta_type) {
    case DeltaType::kFloat32:
      return dispatch<Float32>(args, begin, end);
    case DeltaType::kBFloat16:
      return dispatch<BFloat16>(args, begin, end);
    case DeltaType::kFloat16:
      return dispatch<Float16>(args, begin, end);
  }
}

}  // namespace sign_ext
