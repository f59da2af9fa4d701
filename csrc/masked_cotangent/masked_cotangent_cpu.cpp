// The CPU kernel, compiled once per vector target.

#include <bit>
#include <cstdint>
#include <cstring>

#include "common/half_bits.h"
#include "common/storage.h"
#include "masked_cotangent/masked_cotangent.h"

#define SIGN_EXT_BODY "masked_cotangent/masked_cotangent_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void masked_cotangent_cpu(const MaskedCotangentArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(masked_cotangent_rows(args, begin, end));
}

}  // namespace sign_ext
