// Launches on the emulation what the launchers in the .cu files launch on a device, and what the
// tests of such launches share.

#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/channel_groups.cuh"
#include "common/device.cuh"
#include "tests/check.h"

namespace launches_test {

// launch(blocks, kernel, arguments...), as common/launch.cuh's OnStream.
struct Emulated {
  int threads = sign_ext::kGroupThreads;

  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned int blocks, void (*kernel)(Parameters...),
                  Arguments... arguments) const {
    host_cuda::launch(kernel, dim3(blocks), dim3(static_cast<unsigned int>(threads)), arguments...);
  }
};

inline void require_launched(const char* refused) {
  CHECK(refused == nullptr, std::string("refused: ") + (refused == nullptr ? "" : refused));
}

inline void require_refused(const char* refused, const std::string& part) {
  CHECK(refused != nullptr && std::string(refused).find(part) != std::string::npos,
        "not refused because of " + part);
}

// [first, first + count) of each launch, in order.
using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;

inline void require_covered(const Ranges& ranges, std::int64_t all, const std::string& text) {
  std::int64_t next = 0;
  for (const auto& [first, count] : ranges) {
    CHECK(first == next && count > 0, text + ": a launch begins at " + std::to_string(first) +
                                          " instead of " + std::to_string(next));
    next = first + count;
  }
  CHECK(next == all, text + ": the launches end at " + std::to_string(next));
}

}  // namespace launches_test
