// Which of the vector instruction sets that kernels are compiled for this processor supports.

#pragma once

#include <cstdlib>
#include <cstring>

namespace sign_ext {

enum class CpuTarget { kBaseline, kAvx2, kAvx512 };

// The best one, detected once. SIGN_EXT_CPU_TARGET=baseline|avx2|avx512 lowers it, for tests.
inline CpuTarget cpu_target() {
  static const CpuTarget chosen = [] {
    CpuTarget best = CpuTarget::kBaseline;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = CpuTarget::kAvx2;
    if (best == CpuTarget::kAvx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      best = CpuTarget::kAvx512;
    }
#endif
    const char* asked = std::getenv("SIGN_EXT_CPU_TARGET");
    if (asked != nullptr) {
      CpuTarget limit = best;
      if (std::strcmp(asked, "baseline") == 0) limit = CpuTarget::kBaseline;
      if (std::strcmp(asked, "avx2") == 0) limit = CpuTarget::kAvx2;
      if (limit < best) best = limit;
    }
    return best;
  }();
  return chosen;
}

}  // namespace sign_ext
