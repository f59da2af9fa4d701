// Schemas and registrations of sign_ext::position_sums and sign_ext::gate through LibTorch's stable
// ABI.

#include "gate/gate.h"

#include <cmath>
#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kPositionSums[] = "position_sums";
constexpr char kGate[] = "gate";

// Sets images, positions, channels and type.
template <typename Args>
void set_image(const char* op, const char* name, const Tensor& x, Args& args) {
  image_of(op, name, x);
  args.images = x.size(0);
  args.channels = x.size(1);
  args.positions = x.size(2) * x.size(3);
  args.type = element_type_of(op, name, x);
}

PositionSumsArgs position_sums_args(const Tensor& x, const Tensor& out, const OptionalTensor& y,
                                    double factor) {
  constexpr const char* kOp = kPositionSums;
  PositionSumsArgs args{};
  set_image(kOp, "x", x, args);
  STD_TORCH_CHECK(!std::isnan(factor), kOp, ": factor must be a number, not NaN");
  args.factor = static_cast<float>(factor);
  constant_of(kOp, "out", out, args.images * args.channels, x);
  check_apart(kOp, "out", out, "x", x);
  if (y.has_value()) {
    STD_TORCH_CHECK(y->scalar_type() == x.scalar_type(), kOp, ": y must have x's dtype");
    check_companion(kOp, "y", *y, "x", x);
    check_apart(kOp, "out", out, "y", *y);
    args.y = y->const_data_ptr();
  }
  args.x = x.const_data_ptr();
  args.out = static_cast<float*>(out.mutable_data_ptr());
  return args;
}

GateArgs gate_args(const Tensor& x, const Tensor& out, const Tensor& scale,
                   const OptionalTensor& shift) {
  constexpr const char* kOp = kGate;
  GateArgs args{};
  set_image(kOp, "x", x, args);
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type(), kOp, ": out must have x's dtype");
  check_companion(kOp, "out", out, "x", x);
  check_same_or_apart(kOp, "x", x, "out", out);
  args.scale = constant_of(kOp, "scale", scale, args.images * args.channels, x);
  check_apart(kOp, "scale", scale, "out", out);
  args.shift = constant_of(kOp, "shift", shift, args.images * args.channels, x);
  if (shift.has_value()) check_apart(kOp, "shift", *shift, "out", out);
  args.x = x.const_data_ptr();
  args.out = out.mutable_data_ptr();
  return args;
}

void position_sums_on_cpu(const PositionSumsArgs& args) {
  const std::int64_t parts = args.images * sum_parts(args.channels);
  for_rows<position_sums_cpu>(args, parts, kSumChannels * args.positions);
}

void gate_on_cpu(const GateArgs& args) {
  for_rows<gate_cpu>(args, args.images * args.positions, args.channels);
}

SIGN_EXT_SCHEMA("position_sums(Tensor x, Tensor(a!) out, Tensor? y, float factor) -> ()")
SIGN_EXT_ON_CPU(kPositionSums, position_sums_args, position_sums_on_cpu)
SIGN_EXT_ON_CUDA(kPositionSums, position_sums_args, position_sums_cuda)

SIGN_EXT_SCHEMA("gate(Tensor x, Tensor(a!) out, Tensor scale, Tensor? shift) -> ()")
SIGN_EXT_ON_CPU(kGate, gate_args, gate_on_cpu)
SIGN_EXT_ON_CUDA(kGate, gate_args, gate_cuda)

}  // namespace
}  // namespace sign_ext::bindings
