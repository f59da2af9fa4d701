// The activation that an operator's arguments ask for, checked.

#pragma once

#include <cmath>

#include "bindings/stable.h"
#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext::bindings {

// With its bounds as the stored type has them, so that bits and stored values agree. Bits are read
// off the activation's value, and a negative slope would turn its sign around (and make another
// value of a window the largest).
inline Activation activation_of(const char* op, double low, double high, double slope,
                                ElementType stored) {
  STD_TORCH_CHECK(!std::isnan(low) && !std::isnan(high), op, ": low and high must be numbers");
  STD_TORCH_CHECK(slope >= 0, op, ": slope must not be negative");
  const auto bound = [stored](double value) {
    const auto single = static_cast<float>(value);
    return stored == ElementType::kFloat32 ? single
                                           : bfloat16_bits_to_float(float_to_bfloat16_bits(single));
  };
  return {bound(low), bound(high), static_cast<float>(slope)};
}

}  // namespace sign_ext::bindings
