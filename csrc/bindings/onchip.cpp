// Schema and registration of sign_ext::onchip_ through LibTorch's stable ABI. CUDA only.

#include "onchip/onchip.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

#include "bindings/checks.h"
#include "bindings/dispatch.h"
#include "onchip/onchip_layout.h"

#ifdef SIGN_EXT_WITH_CUDA
namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "onchip_";

void check_vector(const char* name, const Tensor& tensor, ScalarType type, std::int64_t least,
                  const Tensor& p) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous() &&
                      tensor.numel() >= least && same_device(tensor, p),
                  kOp, ": ", name, " must be contiguous, of the plan's dtype, with at least ",
                  least, " elements, on p's device");
}

onchip::Plan plan_of(const Tensor& words) {
  onchip::Plan plan{};
  STD_TORCH_CHECK(words.is_cpu() && words.scalar_type() == ScalarType::Int &&
                      words.is_contiguous() && bytes_of(words) == sizeof(plan),
                  kOp, ": plan must be ", sizeof(plan) / 4, " int32 on the CPU");
  std::memcpy(&plan, words.const_data_ptr(), sizeof(plan));
  STD_TORCH_CHECK(plan.words == sizeof(plan) / 4 && plan.layers > 0 &&
                      plan.layers <= onchip::kMostLayers &&
                      (plan.forward != 0 || plan.backward != 0),
                  kOp, ": plan was not made for this version of the operator");
  const std::int64_t threads = plan.threads;
  STD_TORCH_CHECK((threads == 128 || threads == 256 || threads == 512), kOp,
                  ": plan must have 128, 256 or 512 threads per block");
  return plan;
}

// The ends of a plan's constants and weights.
struct Ends {
  std::int64_t weights = 0;
  std::int64_t constants = 0;
};

Ends ends_of(const onchip::Plan& plan, std::int64_t last_pixels) {
  Ends ends;
  const auto constant = [&ends](std::int64_t at, std::int64_t count) {
    ends.constants = std::max(ends.constants, at + count);
  };
  constant(plan.scale_element, plan.layer[0].in_c);
  constant(plan.shift_element, plan.layer[0].in_c);
  for (int i = 0; i < plan.layers; ++i) {
    const onchip::Layer& layer = plan.layer[i];
    const std::int64_t rows = onchip::weight_rows(layer.kernel_h * layer.kernel_w, layer.in_c);
    ends.weights = std::max(ends.weights, layer.weight_element + rows * layer.out_c);
    constant(layer.bias_element, layer.out_c);
  }
  if (plan.forward != 0 && plan.backward != 0) {
    constant(plan.seed_element, last_pixels * plan.layer[plan.layers - 1].out_c);
  }
  return ends;
}

// Checks the last value, or its cotangent.
void check_features(const char* name, const OptionalTensor& tensor, const Tensor& p,
                    std::int64_t pixels, std::int64_t channels) {
  STD_TORCH_CHECK(tensor.has_value(), kOp, ": this plan needs ", name);
  STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::BFloat16 && same_device(*tensor, p) &&
                      tensor->dim() == 4 && tensor->size(0) == p.size(0) &&
                      tensor->size(1) == channels && tensor->size(2) * tensor->size(3) == pixels,
                  kOp, ": ", name, " must be (N, ", channels, ", H, W) with ", pixels,
                  " positions, bfloat16, on p's device");
  rows_of(kOp, name, *tensor);
}

onchip::Args checked_args(const Tensor& p, const Tensor& plan, const Tensor& weights,
                          const Tensor& constants, const OptionalTensor& velocity,
                          const OptionalTensor& features, const OptionalTensor& residues,
                          const OptionalTensor& cotangent, const Tensor& watch,
                          const Tensor& counts, std::int64_t steps, double step_size,
                          double momentum, std::optional<double> clamp_min,
                          std::optional<double> clamp_max) {
  onchip::Args args{};
  args.plan = plan_of(plan);
  const onchip::Plan& with = args.plan;
  STD_TORCH_CHECK(
      p.scalar_type() == ScalarType::Float && p.dim() == 4 && p.size(1) == with.channels &&
          p.size(2) == with.height && p.size(3) == with.width,
      kOp, ": p must be float32 (N, ", with.channels, ", ", with.height, ", ", with.width, ")");
  rows_of(kOp, "p", p);
  const bool whole = with.forward != 0 && with.backward != 0;
  STD_TORCH_CHECK(
      steps >= 0 && steps <= std::numeric_limits<std::int32_t>::max() && (whole || steps <= 1), kOp,
      ": steps must not be negative, and at most 1 for a plan of half a step");
  STD_TORCH_CHECK(p.size(0) <= std::numeric_limits<std::int32_t>::max(), kOp,
                  ": p has more images than one call supports");
  const onchip::Layer& last = with.layer[with.layers - 1];
  const std::int64_t pixels = last.pooled != 0 ? std::int64_t{last.out_h / 2} * (last.out_w / 2)
                                               : std::int64_t{last.out_h} * last.out_w;
  const Ends ends = ends_of(with, pixels);
  check_vector("weights", weights, ScalarType::BFloat16, ends.weights, p);
  check_alignment(kOp, "weights", weights);
  check_vector("constants", constants, ScalarType::Float, ends.constants, p);
  check_alignment(kOp, "constants", constants);
  check_vector("watch", watch, ScalarType::Float, 2, p);
  check_vector("counts", counts, ScalarType::Int, kCounts, p);
  if (with.velocity_at >= 0) {
    STD_TORCH_CHECK(velocity.has_value() && velocity->scalar_type() == ScalarType::Float, kOp,
                    ": this plan needs a float32 velocity");
    check_companion(kOp, "velocity", *velocity, "p", p);
    check_apart(kOp, "velocity", *velocity, "p", p);
    args.velocity = static_cast<float*>(velocity->mutable_data_ptr());
  }
  STD_TORCH_CHECK(whole || residues.has_value(), kOp, ": this plan needs residues");
  if (residues.has_value()) {
    check_vector("residues", *residues, ScalarType::Byte, p.size(0) * with.residue_bytes, p);
    check_alignment(kOp, "residues", *residues);
    args.residues = static_cast<std::uint8_t*>(residues->mutable_data_ptr());
  }
  if (!whole) {
    const bool forward = with.forward != 0;
    const auto& given = forward ? features : cotangent;
    check_features(forward ? "features" : "cotangent", given, p, pixels, with.last_channels);
    if (forward) {
      args.features = static_cast<std::uint16_t*>(given->mutable_data_ptr());
    } else {
      args.cotangent = static_cast<const std::uint16_t*>(given->const_data_ptr());
    }
  }
  args.images = static_cast<unsigned int>(p.size(0));
  args.steps = static_cast<int>(steps);
  args.p = static_cast<float*>(p.mutable_data_ptr());
  args.weights = static_cast<const std::uint16_t*>(weights.const_data_ptr());
  args.constants = static_cast<const float*>(constants.const_data_ptr());
  args.watch = static_cast<unsigned int*>(watch.mutable_data_ptr());
  args.counts = static_cast<std::int32_t*>(counts.mutable_data_ptr());
  set_step(kOp, step_size, momentum, clamp_min, clamp_max, args);
  return args;
}

SIGN_EXT_ON_CUDA(kOp, checked_args, onchip::run_cuda)

}  // namespace
}  // namespace sign_ext::bindings
#endif

SIGN_EXT_SCHEMA(
    "onchip_(Tensor(a!) p, Tensor plan, Tensor weights, Tensor constants, "
    "Tensor(b!)? velocity, Tensor(c!)? features, Tensor(d!)? residues, Tensor? cotangent, "
    "Tensor(e!) watch, Tensor(f!) counts, int steps, float step_size, float momentum, "
    "float? clamp_min, float? clamp_max) -> ()")
