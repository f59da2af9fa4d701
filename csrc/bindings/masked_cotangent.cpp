// Schema and registration of sign_ext::masked_cotangent through LibTorch's stable ABI.

#include "masked_cotangent/masked_cotangent.h"

#include <cmath>
#include <cstdint>
#include <optional>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "bindings/stable.h"

namespace sign_ext::bindings {
namespace {

constexpr const char* kOp = "masked_cotangent";

MaskedCotangentArgs checked_args(const Tensor& g, const Tensor& out,
                                 const std::optional<Tensor>& mask, double slope,
                                 const std::optional<Tensor>& scale,
                                 const std::optional<Tensor>& other) {
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

void masked_cotangent_on_cpu(const Tensor& g, const Tensor& out, const std::optional<Tensor>& mask,
                             double slope, const std::optional<Tensor>& scale,
                             const std::optional<Tensor>& other) {
  const MaskedCotangentArgs args = checked_args(g, out, mask, slope, scale, other);
  for_rows(args.rows, args.channels, [&args](std::int64_t begin, std::int64_t end) {
    masked_cotangent_cpu(args, begin, end);
  });
}

#ifdef SIGN_EXT_WITH_CUDA
void masked_cotangent_on_cuda(const Tensor& g, const Tensor& out, const std::optional<Tensor>& mask,
                              double slope, const std::optional<Tensor>& scale,
                              const std::optional<Tensor>& other) {
  const MaskedCotangentArgs args = checked_args(g, out, mask, slope, scale, other);
  on_current_stream(kOp, g, [&args](void* stream) { return masked_cotangent_cuda(args, stream); });
}
#endif

}  // namespace
}  // namespace sign_ext::bindings

STABLE_TORCH_LIBRARY_FRAGMENT(sign_ext, library) {
  library.def(
      "masked_cotangent(Tensor g, Tensor(a!) out, Tensor? mask, float slope, Tensor? scale, "
      "Tensor? other) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sign_ext, CPU, library) {
  library.impl("masked_cotangent", TORCH_BOX(&sign_ext::bindings::masked_cotangent_on_cpu));
}

#ifdef SIGN_EXT_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sign_ext, CUDA, library) {
  library.impl("masked_cotangent", TORCH_BOX(&sign_ext::bindings::masked_cotangent_on_cuda));
}
#endif
