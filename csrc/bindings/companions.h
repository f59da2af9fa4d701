// Checks of tensors that go with another one: its shape, its device, its memory or none of it.

#pragma once

#include "bindings/rows.h"

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

// Of what a kernel reads 16 bytes at a time.
inline void check_alignment(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0, op, ": ",
                  name, " must begin on 16 bytes: pass a tensor of its own, not a part of one");
}

}  // namespace sign_ext::bindings
