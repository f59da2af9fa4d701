// Schemas and registrations of sign_ext::activate and sign_ext::pack_mask through LibTorch's stable
// ABI.

#include "activate/activate.h"

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kActivate[] = "activate";
constexpr char kPackMask[] = "pack_mask";

ActivateArgs activate_args(const Tensor& x, const Tensor& out, const OptionalTensor& scale,
                           const OptionalTensor& bias, const OptionalTensor& residual,
                           const OptionalTensor& mask, double low, double high, double slope) {
  constexpr const char* kOp = kActivate;
  const Rows rows = rows_of(kOp, "x", x);
  ActivateArgs args{};
  args.rows = rows.rows;
  args.channels = rows.channels;
  args.x_type = element_type_of(kOp, "x", x);
  args.out_type = element_type_of(kOp, "out", out);
  args.activation = activation_of(kOp, low, high, slope, args.out_type);
  STD_TORCH_CHECK(args.out_type == args.x_type || args.out_type == ElementType::kBFloat16, kOp,
                  ": out must have x's dtype, or be bfloat16");
  check_companion(kOp, "out", out, "x", x);
  check_same_or_apart(kOp, "x", x, "out", out);
  if (residual.has_value()) {
    STD_TORCH_CHECK(residual->scalar_type() == out.scalar_type(), kOp,
                    ": residual must have out's dtype");
    check_companion(kOp, "residual", *residual, "x", x);
    check_same_or_apart(kOp, "residual", *residual, "out", out);
    args.residual = residual->const_data_ptr();
  }
  args.scale = constant_of(kOp, "scale", scale, rows.channels, x);
  args.bias = constant_of(kOp, "bias", bias, rows.channels, x);
  args.mask = mutable_mask_of(kOp, "mask", mask, rows, x);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "out", out);
  args.x = x.const_data_ptr();
  args.out = out.mutable_data_ptr();
  return args;
}

PackMaskArgs pack_mask_args(const Tensor& y, const Tensor& mask, double low, double high,
                            double slope) {
  constexpr const char* kOp = kPackMask;
  const Rows rows = rows_of(kOp, "y", y);
  PackMaskArgs args{};
  args.rows = rows.rows;
  args.channels = rows.channels;
  args.y_type = element_type_of(kOp, "y", y);
  args.activation = activation_of(kOp, low, high, slope, args.y_type);
  args.y = y.const_data_ptr();
  args.mask = mutable_mask_of(kOp, "mask", mask, rows, y);
  check_apart(kOp, "mask", mask, "y", y);
  return args;
}

void activate_on_cpu(const ActivateArgs& args) {
  for_rows<activate_cpu>(args, args.rows, args.channels);
}

void pack_mask_on_cpu(const PackMaskArgs& args) {
  for_rows<pack_mask_cpu>(args, args.rows, args.channels);
}

SIGN_EXT_SCHEMA(
    "activate(Tensor x, Tensor(a!) out, Tensor? scale, Tensor? bias, Tensor? residual, "
    "Tensor(b!)? mask, float low, float high, float slope) -> ()")
SIGN_EXT_ON_CPU(kActivate, activate_args, activate_on_cpu)
SIGN_EXT_ON_CUDA(kActivate, activate_args, activate_cuda)

SIGN_EXT_SCHEMA("pack_mask(Tensor y, Tensor(a!) mask, float low, float high, float slope) -> ()")
SIGN_EXT_ON_CPU(kPackMask, pack_mask_args, pack_mask_on_cpu)
SIGN_EXT_ON_CUDA(kPackMask, pack_mask_args, pack_mask_cuda)

}  // namespace
}  // namespace sign_ext::bindings
