// Checks of tensors that go with another one: its shape, its device, its memory or none of it.

#pragma once

#include <cstdint>
#include <optional>

#include "bindings/rows.h"
#include "common/watch.h"

namespace sign_ext::bindings {

// Another tensor of `like`'s shape, in rows like it.
inline void check_companion(const char* op, const char* name, const Tensor& tensor,
                            const char* like_name, const Tensor& like) {
  STD_TORCH_CHECK(same_shape(tensor, like), op, ": ", name, " must have ", like_name, "'s shape");
  STD_TORCH_CHECK(same_device(tensor, like), op, ": ", name, " must be on ", like_name,
                  "'s device");
  rows_of(op, name, tensor);
}

// Elements that are read before the same element is written may lie in the same places, not in
// others.
inline void check_same_or_apart(const char* op, const char* name, const Tensor& tensor,
                                const char* out_name, const Tensor& out) {
  const void* const first = tensor.const_data_ptr();
  const void* const second = out.const_data_ptr();
  if (first == second && tensor.scalar_type() == out.scalar_type()) return;
  STD_TORCH_CHECK(!overlap(first, bytes_of(tensor), second, bytes_of(out)), op, ": ", out_name,
                  " shares memory with ", name, " without being the same tensor");
}

inline void check_apart(const char* op, const char* name, const Tensor& tensor,
                        const char* other_name, const Tensor& other) {
  STD_TORCH_CHECK(
      !overlap(tensor.const_data_ptr(), bytes_of(tensor), other.const_data_ptr(), bytes_of(other)),
      op, ": ", name, " shares memory with ", other_name);
}

// What an update reports (common/watch.h), or nothing: sets args.watch and args.counts.
template <typename Args>
void set_watch(const char* op, const std::optional<Tensor>& watch,
               const std::optional<Tensor>& counts, const Tensor& p, Args& args) {
  if (watch.has_value()) {
    constant_of(op, "watch", watch, 2, p);
    check_apart(op, "watch", *watch, "p", p);
    args.watch = static_cast<float*>(watch->mutable_data_ptr());
  }
  if (counts.has_value()) {
    STD_TORCH_CHECK(watch.has_value(), op, ": counts need a watch");
    STD_TORCH_CHECK(
        counts->scalar_type() == torch::headeronly::ScalarType::Int && counts->numel() == kCounts &&
            counts->is_contiguous() && same_device(*counts, p),
        op, ": counts must be ", kCounts, " contiguous int32 values on the same device");
    check_apart(op, "counts", *counts, "p", p);
    check_apart(op, "counts", *counts, "watch", *watch);
    args.counts = static_cast<std::int32_t*>(counts->mutable_data_ptr());
  }
}

// Of what a kernel reads 16 bytes at a time.
inline void check_alignment(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0, op, ": ",
                  name, " must begin on 16 bytes: pass a tensor of its own, not a part of one");
}

}  // namespace sign_ext::bindings
