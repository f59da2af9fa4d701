// The CPU kernel: stem_update_cpu_body.h for every vector target, and its scratch memory.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "common/half_bits.h"
#include "common/watch_cpu.h"
#include "stem_update/stem_update.h"
#include "stem_update/stem_update_plan.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only
#define SIGN_EXT_BODY "stem_update/stem_update_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {
namespace {

struct FreeAligned {
  void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

// Returns at least this many bytes, private to the calling thread and kept for its next call.
char* scratch(std::size_t bytes) {
  static thread_local std::unique_ptr<char, FreeAligned> memory;
  static thread_local std::size_t size = 0;
  if (size < bytes) {
    size = 0;
    memory.reset();
    memory.reset(static_cast<char*>(::operator new(bytes, std::align_val_t{64})));
    size = bytes;
  }
  return memory.get();
}

void run_rows(const StemUpdateArgs& args, std::int64_t begin, std::int64_t end, int* watch) {
  SIGN_EXT_CALL_TARGET(stem_update_rows(args, &scratch, begin, end, watch));
}

}  // namespace

void stem_update_cpu(const StemUpdateArgs& args, std::int64_t begin, std::int64_t end) {
  if (begin >= end || args.width == 0 || args.in_channels == 0) return;
  int watch[2] = {0, 0};
  run_rows(args, begin, end, watch);
  if (args.watch != nullptr) {
    raise_to(args.watch, watch[0]);
    raise_to(args.watch + 1, watch[1]);
  }
}

}  // namespace sign_ext
