// The CPU kernel: straight loops over plain arrays that the compiler vectorises.

#include <cstdint>

#include "common/half_bits.h"
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

// Written so that a NaN fails both comparisons and passes through.
inline float clamped(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Callers reject overlapping arrays, so __restrict holds and nothing needs a run-time check.
template <typename Delta>
void update(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  float* __restrict p = args.p;
  const auto* __restrict delta = static_cast<const typename Delta::Storage*>(args.delta);
  const float step = args.step_size;
  const float low = args.clamp_min;
  const float high = args.clamp_max;
  for (std::int64_t i = begin; i < end; ++i) {
    p[i] = clamped(p[i] + step * Delta::widen(delta[i]), low, high);
  }
}

template <typename Delta>
void update_with_velocity(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  float* __restrict p = args.p;
  float* __restrict velocity = args.velocity;
  const auto* __restrict delta = static_cast<const typename Delta::Storage*>(args.delta);
  const float step = args.step_size;
  const float momentum = args.momentum;
  const float low = args.clamp_min;
  const float high = args.clamp_max;
  for (std::int64_t i = begin; i < end; ++i) {
    const float v = momentum * velocity[i] + Delta::widen(delta[i]);
    velocity[i] = v;
    p[i] = clamped(p[i] + step * v, low, high);
  }
}

template <typename Delta>
void dispatch(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.velocity != nullptr) {
    update_with_velocity<Delta>(args, begin, end);
  } else {
    update<Delta>(args, begin, end);
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
