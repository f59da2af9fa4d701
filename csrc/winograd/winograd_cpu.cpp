// The CPU kernel: Winograd's stages for each vector target, and each thread's scratch memory.

#include <cstddef>
#include <vector>

#include "winograd/winograd.h"

#define SIGN_EXT_BODY "winograd/winograd_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {
namespace {

void run(const WinogradArgs& args, std::int64_t begin, std::int64_t end, float* scratch,
         const float* zeros) {
  SIGN_EXT_CALL_TARGET(winograd_chunks(args, begin, end, scratch, zeros));
}

}  // namespace

void winograd_cpu(const WinogradArgs& args, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  // Kept per thread: allocating it in every call would cost more than a small call itself.
  thread_local std::vector<float> scratch;
  thread_local std::vector<float> zeros;
  const auto needed =
      static_cast<std::size_t>(16 * kWinogradTiles * (args.channels + args.out_channels));
  const auto channels = static_cast<std::size_t>(args.channels);
  if (scratch.size() < needed) scratch.resize(needed);
  if (zeros.size() < channels) zeros.resize(channels, 0.0f);
  run(args, begin, end, scratch.data(), zeros.data());
}

}  // namespace sign_ext
