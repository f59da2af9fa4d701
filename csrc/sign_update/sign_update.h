// sign_update_: one step of Algorithm 1, in place and in one pass.
//
//   velocity given:   v <- momentum * v + delta,   p <- clamp(p + step_size * v)
//   no velocity:                                   p <- clamp(p + step_size * delta)
//   the largest |delta| and |p| before the clamp are noted where there is a watch, and the step is
//   counted where there are counts (common/watch.h)
//
// p and v are float32; delta is float32, bfloat16 or float16, widened to float32 before any
// arithmetic. The arrays are n elements of plain storage in one common order: callers pass tensors
// whose strides agree and leave no gap, so the operator never needs to know shapes. Bounds that
// the caller leaves open are -inf and +inf. NaN in p or delta stays NaN through the clamp.
//
// Bytes moved per element, with s = sizeof(delta) (4 or 2): p is read and written once, delta is
// read once, v is read and written once where there is one.
//
//   without velocity   8 + s     (12 or 10)
//   with velocity     16 + s     (20 or 18)
//
// Watch and counts are 20 bytes a call, and as many for each block's atomic operations.
//
// Arithmetic per element: one multiply-add and two comparisons (one more multiply-add with a
// velocity, two maxima of integers with a watch), so about 0.3 FLOP a byte: memory sets the floor,
// n * (8 + s) / bandwidth, the time of copying the same number of bytes. The CPU kernel is compiled
// for the baseline of its architecture: x86-64's has no maximum of 32-bit integers, so that there
// a watch makes one thread's arithmetic the longer part.

#pragma once

#include <cstdint>

namespace sign_ext {

enum class DeltaType { kFloat32, kBFloat16, kFloat16 };

struct SignUpdateArgs {
  float* p;           // [n], updated in place
  const void* delta;  // [n] of delta_type, never written
  float* velocity;    // [n], updated in place, or null
  DeltaType delta_type;
  std::int64_t n;
  float step_size;
  float momentum;
  float clamp_min;  // -inf: no lower bound
  float clamp_max;  // +inf: no upper bound; wins where the bounds are crossed, as in torch.clamp
  float* watch = nullptr;          // [2], or null
  std::int32_t* counts = nullptr;  // [3], or null; counts need a watch
};

// The CPU kernel over elements [begin, end). Splitting a call at any point changes no bit of the
// result, so the caller brings its own thread pool; it counts the step (count_step) when all are
// done.
void sign_update_cpu(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null, or the text of the CUDA error.
const char* sign_update_cuda(const SignUpdateArgs& args, void* stream);

}  // namespace sign_ext
