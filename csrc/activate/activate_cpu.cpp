// The CPU kernels, compiled once per vector target.

#include <bit>
#include <cstdint>
#include <cstring>

#include "activate/activate.h"
#include "common/half_bits.h"
#include "common/storage.h"

#define SIGN_EXT_BODY "activate/activate_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void activate_cpu(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(activate_rows(args, begin, end));
}

void pack_mask_cpu(const PackMaskArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(pack_mask_rows(args, begin, end));
}

}  // namespace sign_ext
