// sign_update_: one step of Algorithm 1, in place and in one pass.
//
//   velocity given:   v <- momentum * v + delta,   p <- clamp(p + step_size * v)
//   no velocity:                                   p <- clamp(p + step_size * delta)
//   with a watch, the largest |delta| and the largest |p| before the clamp are recorded; with
//   counts, the step is counted (common/watch.h)
//
// p and v are float32. delta is float32, bfloat16 or float16, widened to float32 before any
// arithmetic. The arrays are n elements of plain storage in one common order: callers pass tensors
// whose strides agree and leave no gaps, so the operator never needs shapes. Bounds that the caller
// leaves open are -inf and +inf. NaN in p or delta stays NaN through the clamp.
//
// Bytes moved per element, with s = sizeof(delta) (4 or 2): p is read and written once, delta is
// read once, and v, if given, is read and written once.
//
//   without velocity   8 + s     (12 or 10)
//   with velocity     16 + s     (20 or 18)
//
// Watch and counts are 20 bytes per call, and as many for the atomic operations of each block.
//
// Arithmetic per element: one multiply-add and two comparisons (plus one multiply-add with a
// velocity and two integer maxima with a watch), so about 0.3 FLOP per byte. Memory sets the floor:
// n * (8 + s) / bandwidth, the time to copy the same number of bytes. The CPU kernel is compiled
// for the baseline of its architecture. Baseline x86-64 has no 32-bit integer maximum, so there, on
// one thread, a watch makes arithmetic the bottleneck.

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
  float clamp_min;         // -inf: no lower bound
  float clamp_max;         // +inf: no upper bound; wins if the bounds cross, as in torch.clamp
  float* watch = nullptr;  // [2], or null
  std::int32_t* counts = nullptr;  // [3], or null; counts need a watch
};

// The CPU kernel over elements [begin, end). Splitting a call at any point gives bit-identical
// results, so the caller can use its own thread pool. The caller counts the step (count_step) once
// all elements are done.
void sign_update_cpu(const SignUpdateArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null on success, else the CUDA error message.
const char* sign_update_cuda(const SignUpdateArgs& args, void* stream);

}  // namespace sign_ext
