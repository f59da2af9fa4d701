// A launch and its collectives (contract: host_cuda_launch.h), compiled once for all tests.

#include "testing/host_cuda_launch.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>

namespace host_cuda {

namespace {

constexpr std::size_t kMostSharedBytes = 232448;  // 227 KiB, the most of any GPU so far

std::size_t lowest(unsigned int mask) { return static_cast<std::size_t>(__builtin_ctz(mask)); }

}  // namespace

Launch& Launch::current() {
  static thread_local Launch launch;
  return launch;
}

void Launch::run(const Options& options, dim3 grid, dim3 block, void (*kernel)(void*),
                 void* context) {
  check(options, grid, block);
  seed_ = options.seed;
  random_ = Random(options.seed);
  gridDim = grid;
  blockDim = block;
  threads_.assign(std::size_t{block.x} * block.y * block.z, Thread{});
  std::size_t i = 0;
  for (unsigned int z = 0; z < block.z; ++z) {
    for (unsigned int y = 0; y < block.y; ++y) {
      for (unsigned int x = 0; x < block.x; ++x) threads_[i++].index = {x, y, z};
    }
  }
  // A random step that is coprime to the number of blocks visits each block once.
  blocks_ = blocks_left_ = std::uint64_t{grid.x} * grid.y * grid.z;
  block_ = random_.next() % blocks_;
  do block_step_ = random_.next() % blocks_ + 1;
  while (std::gcd(block_step_, blocks_) != 1);
  dynamic_shared_bytes_ = options.dynamic_shared_bytes;
  if (dynamic_shared_bytes_ > 0) {
    dynamic_shared_.reset(
        static_cast<unsigned char*>(::operator new(dynamic_shared_bytes_, std::align_val_t{16})));
  }
  Threads::run(kernel, context);
  dynamic_shared_.reset();
}

int Launch::sync_block(const char* name, const Place& place, bool predicate) {
  come_to(name, place, 0);
  if (at_barrier_ == 0) first_at_barrier_ = current_;
  const Thread& first = threads_[first_at_barrier_];
  if (std::strcmp(first.name, name) != 0 || first.place.line() != place.line() ||
      std::strcmp(first.place.file_name(), place.file_name()) != 0) {
    stop_disagreeing("threads", first);
  }
  predicates_ += predicate ? 1 : 0;
  if (++at_barrier_ == threads_.size()) {
    for (std::size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].count = predicates_;
      make_ready(i);
    }
    at_barrier_ = 0;
    predicates_ = 0;
  }
  wait();
  return self().count;
}

Launch::Exchanged Launch::exchange(const char* name, const Place& place, unsigned int mask,
                                   std::uint64_t value, int source) {
  come_to(name, place, mask);
  self().value = value;
  self().source = source;
  const std::size_t base = current_ - current_ % warpSize;
  const unsigned int bit = 1u << (current_ - base);
  if ((mask & bit) == 0) stop(self().what() + " called without its own lane in the mask");
  const std::size_t lanes = threads_.size() - base;
  if (lanes < warpSize && mask >> lanes != 0) {
    stop(self().what() + " called with lanes in the mask that the block does not have");
  }
  unsigned int& waiting = waiting_lanes_[base / warpSize];
  if ((waiting & mask) != 0) require_same(threads_[base + lowest(waiting & mask)]);
  waiting |= bit;
  if ((waiting & mask) == mask) complete(base, mask);
  wait();
  return {self().value, self().ballot};
}

void* Launch::dynamic_shared() const {
  if (dynamic_shared_ == nullptr) {
    stop("dynamic shared memory used in a launch that was given none");
  }
  return dynamic_shared_.get();
}

void Launch::fill_with_garbage(void* memory, std::size_t bytes) const {
  std::memset(memory, finite_garbage_ ? 0x7f : 0xff, bytes);
}

void Launch::check(const Options& options, dim3 grid, dim3 block) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      options.dynamic_shared_bytes > kMostSharedBytes) {
    std::fprintf(stderr,
                 "invalid launch: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of dynamic "
                 "shared memory\n",
                 grid.x, grid.y, grid.z, block.x, block.y, block.z, options.dynamic_shared_bytes);
    std::_Exit(EXIT_FAILURE);
  }
}

bool Launch::enter_block() {
  if (blocks_left_ == 0) return false;
  --blocks_left_;
  block_ = (block_ + block_step_) % blocks_;
  blockIdx.x = static_cast<unsigned int>(block_ % gridDim.x);
  blockIdx.y = static_cast<unsigned int>(block_ / gridDim.x % gridDim.y);
  blockIdx.z = static_cast<unsigned int>(block_ / gridDim.x / gridDim.y);
  ++block_serial_;
  finite_garbage_ = random_.below(2) == 0;
  if (dynamic_shared_ != nullptr) {
    fill_with_garbage(dynamic_shared_.get(), dynamic_shared_bytes_);
  }
  make_all_ready();
  return true;
}

void Launch::come_to(const char* name, const Place& place, unsigned int mask) {
  self().name = name;
  self().place = place;
  self().mask = mask;
}

void Launch::require_same(const Thread& other) {
  if (other.mask != self().mask || std::strcmp(other.name, self().name) != 0) {
    stop_disagreeing("lanes", other);
  }
}

[[noreturn]] void Launch::stop_disagreeing(const char* who, const Thread& other) {
  stop(std::string(who) + " disagree: thread " + text_of(other.index) + " waits in " +
       other.what() + ", and " + self().what() + " was called");
}

void Launch::complete(std::size_t base, unsigned int mask) {
  std::uint64_t brought[warpSize];
  unsigned int ballot = 0;
  for (unsigned int left = mask; left != 0; left &= left - 1) {
    const std::size_t lane = lowest(left);
    require_same(threads_[base + lane]);
    brought[lane] = threads_[base + lane].value;
    if (brought[lane] != 0) ballot |= 1u << lane;
  }
  waiting_lanes_[base / warpSize] &= ~mask;
  for (unsigned int left = mask; left != 0; left &= left - 1) {
    Thread& thread = threads_[base + lowest(left)];
    if ((mask >> thread.source & 1u) != 0) {
      thread.value = brought[thread.source];
    } else {
      fill_with_garbage(&thread.value, sizeof(thread.value));
    }
    thread.ballot = ballot;
    make_ready(base + lowest(left));
  }
}

}  // namespace host_cuda
