// Schema and registration of sign_ext::sign_update_ through LibTorch's stable ABI.

#include "sign_update/sign_update.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "bindings/stable.h"
#include "common/watch_cpu.h"

namespace sign_ext::bindings {
namespace {

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
      STD_TORCH_CHECK(false, "sign_update_: delta must be float32, bfloat16 or float16");
  }
}

void check_like_p(const char* name, const Tensor& tensor, const Tensor& p) {
  STD_TORCH_CHECK(same_shape(tensor, p), "sign_update_: ", name, " must have p's shape");
  STD_TORCH_CHECK(same_device(tensor, p), "sign_update_: ", name, " must be on p's device");
  STD_TORCH_CHECK(same_strides(tensor, p), "sign_update_: ", name,
                  " must have p's strides (both contiguous, or both channels_last)");
}

SignUpdateArgs checked_args(const Tensor& p, const Tensor& delta,
                            const std::optional<Tensor>& velocity, double step_size,
                            double momentum, std::optional<double> clamp_min,
                            std::optional<double> clamp_max, const std::optional<Tensor>& watch,
                            const std::optional<Tensor>& counts) {
  STD_TORCH_CHECK(p.scalar_type() == ScalarType::Float, "sign_update_: p must be float32");
  check_like_p("delta", delta, p);
  STD_TORCH_CHECK(dense_and_non_overlapping(p),
                  "sign_update_: p must be dense, without gaps or overlaps: pass p.contiguous()");
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double low = clamp_min.value_or(-kInfinity);
  const double high = clamp_max.value_or(kInfinity);
  STD_TORCH_CHECK(!std::isnan(low) && !std::isnan(high),
                  "sign_update_: clamp_min and clamp_max must be numbers, not NaN");

  SignUpdateArgs args{};
  args.n = p.numel();
  args.p = static_cast<float*>(p.mutable_data_ptr());
  args.delta = delta.const_data_ptr();
  args.delta_type = delta_type_of(delta);
  args.step_size = static_cast<float>(step_size);
  args.momentum = static_cast<float>(momentum);
  args.clamp_min = static_cast<float>(low);
  args.clamp_max = static_cast<float>(high);

  const std::int64_t p_bytes = args.n * 4;
  const std::int64_t delta_bytes = args.n * (args.delta_type == DeltaType::kFloat32 ? 4 : 2);
  STD_TORCH_CHECK(!overlap(args.p, p_bytes, args.delta, delta_bytes),
                  "sign_update_: p and delta share memory: pass delta.clone()");
  if (velocity.has_value()) {
    STD_TORCH_CHECK(velocity->scalar_type() == ScalarType::Float,
                    "sign_update_: velocity must be float32");
    check_like_p("velocity", *velocity, p);
    args.velocity = static_cast<float*>(velocity->mutable_data_ptr());
    STD_TORCH_CHECK(!overlap(args.velocity, p_bytes, args.p, p_bytes) &&
                        !overlap(args.velocity, p_bytes, args.delta, delta_bytes),
                    "sign_update_: velocity shares memory with p or delta: pass velocity.clone()");
  }
  set_watch("sign_update_", watch, counts, p, args);
  return args;
}

void sign_update_on_cpu(const Tensor& p, const Tensor& delta, const std::optional<Tensor>& velocity,
                        double step_size, double momentum, std::optional<double> clamp_min,
                        std::optional<double> clamp_max, const std::optional<Tensor>& watch,
                        const std::optional<Tensor>& counts) {
  const SignUpdateArgs args =
      checked_args(p, delta, velocity, step_size, momentum, clamp_min, clamp_max, watch, counts);
  if (args.n == 0) return;
  // torch's own thread pool: torch.set_num_threads applies, and no second pool competes with it.
  torch::stable::parallel_for(0, args.n, kGrain, [&args](std::int64_t begin, std::int64_t end) {
    sign_update_cpu(args, begin, end);
  });
  if (args.counts != nullptr) count_step(args.watch, args.counts);
}

#ifdef SIGN_EXT_WITH_CUDA
void sign_update_on_cuda(const Tensor& p, const Tensor& delta,
                         const std::optional<Tensor>& velocity, double step_size, double momentum,
                         std::optional<double> clamp_min, std::optional<double> clamp_max,
                         const std::optional<Tensor>& watch, const std::optional<Tensor>& counts) {
  const SignUpdateArgs args =
      checked_args(p, delta, velocity, step_size, momentum, clamp_min, clamp_max, watch, counts);
  if (args.n == 0) return;
  on_current_stream("sign_update_", p,
                    [&args](void* stream) { return sign_update_cuda(args, stream); });
}
#endif

}  // namespace
}  // namespace sign_ext::bindings

STABLE_TORCH_LIBRARY_FRAGMENT(sign_ext, library) {
  library.def(
      "sign_update_(Tensor(a!) p, Tensor delta, Tensor(b!)? velocity, float step_size, "
      "float momentum, float? clamp_min, float? clamp_max, Tensor(c!)? watch=None, "
      "Tensor(d!)? counts=None) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sign_ext, CPU, library) {
  library.impl("sign_update_", TORCH_BOX(&sign_ext::bindings::sign_update_on_cpu));
}

#ifdef SIGN_EXT_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sign_ext, CUDA, library) {
  library.impl("sign_update_", TORCH_BOX(&sign_ext::bindings::sign_update_on_cuda));
}
#endif
