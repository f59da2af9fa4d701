// smooth: a smooth activation and its derivative in one pass.
//
//   v = f(x[i]);  out[i] = v;  derivative[i], fraction[i] = f'(x[i]) in 16 + 8 bits
//
// smooth_backward: a cotangent back through it.
//
//   out[i] = g[i] * f'(x[i]) + other[i]
//
// The derivative is stored, so that the input need not be kept: out may be x. It is a number of
// steps, whole ones in `derivative` and 256ths in `fraction`; 0 and 1 (and 1/6, of hardsigmoid) are
// exact. Without `fraction` the error is at most 1.0e-5, half a step, and on average (root mean
// square) 5.9e-6; of hardswish 2.0e-5 and 1.2e-5. The errors of different layers are independent,
// so after L activations delta is off by about sqrt(L) times 1e-5: too much for float32
// activations, little for bfloat16's. With `fraction` it is 1e-7 or 2e-7, like float32's own
// rounding. A derivative that is NaN has a code of its own.
//
// Values: to about 2 ulp of f where that is not close to 0; exp is a polynomial of degree 6 (1e-7),
// erfc Abramowitz and Stegun's 7.1.26 (1.5e-7, absolute).
//
// Bytes moved per element of s bytes: forward 2 s + 2, backward 2 s + 2 (with `other` s more), with
// `fraction` 1 more.
// Arithmetic per element: 20 to 40 FLOP forward (an exponential and a division), 3 backward. On a
// CPU, within the cache, the exponential sets the floor. On a GPU memory does, by the bytes; but
// the functions with an exponential compile to 73 to 96 instructions an element for sm_90, whose
// issue takes longer than moving the 6 bytes of a bfloat16 element.

#pragma once

#include <cstdint>
#include <cstring>

#include "common/activation.h"
#include "common/storage.h"

#if defined(__CUDACC__) || !defined(__GNUC__)
#define SIGN_EXT_ALWAYS_INLINE SIGN_EXT_HOST_DEVICE
#else
// Without a vector target of its own it must be inlined into functions that have one.
#define SIGN_EXT_ALWAYS_INLINE inline __attribute__((always_inline))
#endif

namespace sign_ext {

enum class SmoothFunction : int { kSilu, kGelu, kGeluTanh, kHardswish, kHardsigmoid, kMish };
constexpr int kSmoothFunctions = 6;

struct SmoothArgs {
  const void* x;             // [count] of type
  void* out;                 // [count] of type; may be x
  std::int16_t* derivative;  // [count], or null
  std::uint8_t* fraction;    // [count], or null
  ElementType type;
  SmoothFunction function;
  std::int64_t count;
};

struct SmoothBackwardArgs {
  const void* g;                   // [count] of type
  const std::int16_t* derivative;  // [count]
  const std::uint8_t* fraction;    // [count], or null: 0
  void* out;                       // [count] of type; may be g or other
  const void* other;               // [count] of type, or null
  ElementType type;
  SmoothFunction function;
  std::int64_t count;
};

// How a function's derivative is stored: as derivative * scale + offset, which lies in [256, 2^24).
struct SmoothCode {
  float scale;   // 256ths of a step in 1
  float offset;  // of 0
};

constexpr std::int16_t kSmoothNaN = -32768;

// a where the condition holds, else b, by arithmetic on bits: a branch whose sides compute
// something would keep a loop from being vectorised.
SIGN_EXT_ALWAYS_INLINE float choose(bool condition, float a, float b) {
#if defined(__CUDA_ARCH__)
  return condition ? a : b;  // one instruction, a select
#else
  std::uint32_t first;
  std::uint32_t second;
  std::memcpy(&first, &a, sizeof(first));
  std::memcpy(&second, &b, sizeof(second));
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
  const std::uint32_t bits = (first & mask) | (second & ~mask);
  float chosen;
  std::memcpy(&chosen, &bits, sizeof(chosen));
  return chosen;
#endif
}

// NaN passes both.
SIGN_EXT_ALWAYS_INLINE float at_least(float x, float bound) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return choose(x < bound, bound, x);
#endif
}
SIGN_EXT_ALWAYS_INLINE float at_most(float x, float bound) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return choose(x > bound, bound, x);
#endif
}

// Ranges: [-1/2, 3/2] of hardswish, [-0.13, 1.13] of the others.
SIGN_EXT_ALWAYS_INLINE SmoothCode smooth_code(SmoothFunction function) {
  return function == SmoothFunction::kHardswish ? SmoothCode{6291456.0f, 5242880.0f}
                                                : SmoothCode{12582912.0f, 2097152.0f};
}

struct SmoothSteps {
  std::int16_t whole;
  std::uint8_t fraction;
};

SIGN_EXT_ALWAYS_INLINE SmoothSteps smooth_coded(float derivative, SmoothCode code, bool fine) {
  float steps = derivative * code.scale + code.offset;
  steps = at_most(at_least(steps, 256.0f), 16777087.0f);
  steps = choose(steps == steps, steps, 0.0f);
  const std::int32_t rounded = static_cast<std::int32_t>(steps) + (fine ? 0 : 128);
  return {static_cast<std::int16_t>((rounded >> 8) - 32768),
          static_cast<std::uint8_t>(rounded & 0xff)};
}

SIGN_EXT_ALWAYS_INLINE float smooth_decoded(SmoothSteps steps, SmoothCode code,
                                            float one_over_scale) {
  const std::uint32_t nan_bits = 0x7fc00000u;
  float nan;
  std::memcpy(&nan, &nan_bits, sizeof(nan));
  const std::int32_t whole = steps.whole;
  const std::int32_t fraction = steps.fraction;
  const auto all = static_cast<float>((whole + 32768) * 256 + fraction);
  return choose(whole == kSmoothNaN, nan, (all - code.offset) * one_over_scale);
}

SIGN_EXT_ALWAYS_INLINE float smooth_decoded(SmoothSteps steps, SmoothCode code) {
  return smooth_decoded(steps, code, 1.0f / code.scale);
}

// Of the formulas: 2^n of the number n that was rounded by adding 12582912 to it.
SIGN_EXT_ALWAYS_INLINE float power_of_two(float shifted) {
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + (127u << 23);
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}

// a / b of the formulas, whose b lies in [1, 2^127]. On a GPU a division is a subroutine with a
// branch, for operands that cannot occur here: an approximate reciprocal, whose error is at most 1
// ulp, and one correction by the remainder take 4 instructions. Reciprocals below 2^-126 are 0
// there.
SIGN_EXT_ALWAYS_INLINE float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b));
  const float near = a * reciprocal;
  return __fmaf_rn(__fmaf_rn(-b, near, a), reciprocal, near);
#else
  return a / b;
#endif
}

#include "smooth/smooth_formulas.h"

// Calls body(constant), constant.value being the function.
template <SmoothFunction kFunction>
struct SmoothConstant {
  static constexpr SmoothFunction value = kFunction;
};

template <typename Body>
inline void with_smooth_function(SmoothFunction function, Body&& body) {
  switch (function) {
    case SmoothFunction::kSilu:
      return body(SmoothConstant<SmoothFunction::kSilu>{});
    case SmoothFunction::kGelu:
      return body(SmoothConstant<SmoothFunction::kGelu>{});
    case SmoothFunction::kGeluTanh:
      return body(SmoothConstant<SmoothFunction::kGeluTanh>{});
    case SmoothFunction::kHardswish:
      return body(SmoothConstant<SmoothFunction::kHardswish>{});
    case SmoothFunction::kHardsigmoid:
      return body(SmoothConstant<SmoothFunction::kHardsigmoid>{});
    case SmoothFunction::kMish:
      return body(SmoothConstant<SmoothFunction::kMish>{});
  }
}

// The CPU kernels over elements [begin, end). Splitting a call anywhere gives bit-identical
// results.
void smooth_cpu(const SmoothArgs& args, std::int64_t begin, std::int64_t end);
void smooth_backward_cpu(const SmoothBackwardArgs& args, std::int64_t begin, std::int64_t end);

// Launch the CUDA kernels on `stream` (a cudaStream_t) of the current device and return at once,
// several times if there are 2^31 elements or more or if their number is not a multiple of 8. They
// return null on success, else the CUDA error message.
const char* smooth_cuda(const SmoothArgs& args, void* stream);
const char* smooth_backward_cuda(const SmoothBackwardArgs& args, void* stream);

}  // namespace sign_ext
