// The threads of a block, run one at a time on one processor, in an order drawn from a seed.
//
// A thread runs until it waits (at a barrier or in a warp collective) or returns. Then one of the
// runnable threads is drawn. So threads run in a different order between any two barriers, and a
// result that depends on the order, because a barrier is missing, is wrong under some seed.
//
// A stack runs one thread after another as long as none of them waits; only a waiting thread keeps
// its stack to itself. So a kernel whose threads do not communicate needs one stack and no switch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "testing/host_cuda_fiber.h"
#include "testing/host_cuda_index.h"

namespace host_cuda {

struct Thread {
  uint3 index;
  Fiber* fiber;  // null before it starts and after it returns
  // What it waits at or last waited at, what it passes there and what it receives.
  const char* name;
  Place place;
  unsigned int mask;  // 0: all threads of the block
  int source;         // the lane whose value it receives
  std::uint64_t value;
  unsigned int ballot;
  int count;

  std::string what() const;
};

class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  // Stops the program as a device would stop the kernel, and reports where.
  [[noreturn]] void stop(const std::string& message) const;

 protected:
  ~Threads() = default;

  // Makes the threads of the next block ready. Returns false if there is no other block.
  virtual bool enter_block() = 0;

  // Calls kernel(context) for every thread of every block that enter_block() makes ready.
  void run(void (*kernel)(void*), void* context);

  Thread& self() { return threads_[current_]; }

  void make_all_ready();

  void make_ready(std::size_t thread) {
    ready_[ready_count_++] = static_cast<std::uint32_t>(thread);
  }

  // Suspends the current thread and returns when it is drawn again.
  void wait();

  std::uint64_t seed_ = 0;
  Random random_;
  std::vector<Thread> threads_;
  std::size_t current_ = 0;

 private:
  // Makes one of the ready threads the current one. Returns false if there is none.
  bool draw();

  // What every fiber does: runs the current thread, then others that have not started, until only
  // threads that wait on other fibers are left.
  void run_on(Fiber& fiber);

  // A fiber that continues with the current thread once it is switched to.
  Fiber& idle_fiber();

  [[noreturn]] void stop_deadlocked() const;

  void (*kernel_)(void*) = nullptr;
  void* context_ = nullptr;
  std::size_t returned_ = 0;
  std::size_t ready_count_ = 0;
  std::uint32_t ready_[1024];
  Fiber program_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
};

}  // namespace host_cuda
