// Schema and registration of sign_ext::sign_update_ through LibTorch's stable ABI.

#include "sign_update/sign_update.h"

#include <cstdint>
#include <optional>

#include "bindings/checks.h"
#include "bindings/dispatch.h"
#include "common/watch_cpu.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "sign_update_";

// The least number of elements worth a thread: with fewer, waking it costs more than it saves.
constexpr std::int64_t kGrain = 32768;

DeltaType delta_type_of(const Tensor& delta) {
  switch (delta.scalar_type()) {
    case ScalarType::Float:
      return DeltaType::kFloat32;
    case ScalarType::BFloat16:
      return DeltaType::kBFloat16;
    case ScalarType::Half:
      return DeltaType::kFloat16;
    default:
      STD_TORCH_CHECK(false, kOp, ": delta must be float32, bfloat16 or float16");
  }
}

void check_like_p(const char* name, const Tensor& tensor, const Tensor& p) {
  STD_TORCH_CHECK(same_shape(tensor, p), kOp, ": ", name, " must have p's shape");
  STD_TORCH_CHECK(same_device(tensor, p), kOp, ": ", name, " must be on p's device");
  STD_TORCH_CHECK(same_strides(tensor, p), kOp, ": ", name,
                  " must have p's strides (both contiguous, or both channels_last)");
}

SignUpdateArgs checked_args(const Tensor& p, const Tensor& delta, const OptionalTensor& velocity,
                            double step_size, double momentum, std::optional<double> clamp_min,
                            std::optional<double> clamp_max, const OptionalTensor& watch,
                            const OptionalTensor& counts) {
  STD_TORCH_CHECK(p.scalar_type() == ScalarType::Float, kOp, ": p must be float32");
  check_like_p("delta", delta, p);
  STD_TORCH_CHECK(dense_and_non_overlapping(p), kOp,
                  ": p must be dense, without gaps or overlaps: pass p.contiguous()");
  SignUpdateArgs args{};
  args.n = p.numel();
  args.p = static_cast<float*>(p.mutable_data_ptr());
  args.delta = delta.const_data_ptr();
  args.delta_type = delta_type_of(delta);
  set_step(kOp, step_size, momentum, clamp_min, clamp_max, args);

  const std::int64_t p_bytes = args.n * 4;
  const std::int64_t delta_bytes = args.n * (args.delta_type == DeltaType::kFloat32 ? 4 : 2);
  STD_TORCH_CHECK(!overlap(args.p, p_bytes, args.delta, delta_bytes), kOp,
                  ": p and delta share memory: pass delta.clone()");
  if (velocity.has_value()) {
    STD_TORCH_CHECK(velocity->scalar_type() == ScalarType::Float, kOp,
                    ": velocity must be float32");
    check_like_p("velocity", *velocity, p);
    args.velocity = static_cast<float*>(velocity->mutable_data_ptr());
    STD_TORCH_CHECK(!overlap(args.velocity, p_bytes, args.p, p_bytes) &&
                        !overlap(args.velocity, p_bytes, args.delta, delta_bytes),
                    kOp, ": velocity shares memory with p or delta: pass velocity.clone()");
  }
  set_watch(kOp, watch, counts, p, args);
  return args;
}

void run_on_cpu(const SignUpdateArgs& args) {
  if (args.n == 0) return;
  torch::stable::parallel_for(0, args.n, kGrain, [&args](std::int64_t begin, std::int64_t end) {
    sign_update_cpu(args, begin, end);
  });
  if (args.counts != nullptr) count_step(args.watch, args.counts);
}

SIGN_EXT_SCHEMA(
    "sign_update_(Tensor(a!) p, Tensor delta, Tensor(b!)? velocity, float step_size, "
    "float momentum, float? clamp_min, float? clamp_max, Tensor(c!)? watch=None, "
    "Tensor(d!)? counts=None) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)
SIGN_EXT_ON_CUDA(kOp, checked_args, sign_update_cuda)

}  // namespace
}  // namespace sign_ext::bindings
