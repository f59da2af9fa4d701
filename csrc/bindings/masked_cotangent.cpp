// Schema and registration of sign_ext::masked_cotangent through LibTorch's stable ABI.

#include "masked_cotangent/masked_cotangent.h"

#include <cmath>
#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "masked_cotangent";

MaskedCotangentArgs checked_args(const Tensor& g, const Tensor& out, const OptionalTensor& mask,
                                 double slope, const OptionalTensor& scale,
                                 const OptionalTensor& other) {
  const Rows rows = rows_of(kOp, "g", g);
  MaskedCotangentArgs args{};
  args.rows = rows.rows;
  args.channels = rows.channels;
  args.type = element_type_of(kOp, "g", g);
  STD_TORCH_CHECK(!std::isnan(slope), kOp, ": slope must be a number, not NaN");
  args.slope = static_cast<float>(slope);
  STD_TORCH_CHECK(out.scalar_type() == g.scalar_type(), kOp, ": out must have g's dtype");
  check_companion(kOp, "out", out, "g", g);
  check_same_or_apart(kOp, "g", g, "out", out);
  if (other.has_value()) {
    STD_TORCH_CHECK(other->scalar_type() == g.scalar_type(), kOp, ": other must have g's dtype");
    check_companion(kOp, "other", *other, "g", g);
    check_same_or_apart(kOp, "other", *other, "out", out);
    args.other = other->const_data_ptr();
  }
  args.scale = constant_of(kOp, "scale", scale, rows.channels, g);
  args.mask = mask_of(kOp, "mask", mask, rows, g);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "out", out);
  args.g = g.const_data_ptr();
  args.out = out.mutable_data_ptr();
  return args;
}

void run_on_cpu(const MaskedCotangentArgs& args) {
  for_rows<masked_cotangent_cpu>(args, args.rows, args.channels);
}

SIGN_EXT_SCHEMA(
    "masked_cotangent(Tensor g, Tensor(a!) out, Tensor? mask, float slope, Tensor? scale, "
    "Tensor? other) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)
SIGN_EXT_ON_CUDA(kOp, checked_args, masked_cotangent_cuda)

}  // namespace
}  // namespace sign_ext::bindings
