// The CPU kernels, compiled once per vector target.

#include <cstdint>
#include <cstring>

#include "common/half_bits.h"
#include "common/storage.h"
#include "gate/gate.h"

#define SIGN_EXT_BODY "gate/gate_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void position_sums_cpu(const PositionSumsArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(position_sums_parts(args, begin, end));
}

void gate_cpu(const GateArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(gate_rows(args, begin, end));
}

}  // namespace sign_ext
