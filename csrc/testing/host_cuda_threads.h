// The threads of a block, one at a time on one processor, in an order that a seed draws.
//
// A thread runs until it waits (at a barrier, in a warp's collective) or returns; then any of those
// that can go on is drawn. So threads run in another order between any two barriers, and a result
// that depends on the order, because a barrier is missing, is wrong under some seed.
//
// A stack runs thread after thread for as long as none of them waits; only a thread that waits
// keeps its stack to itself. So a kernel whose threads do not communicate needs one stack and no
// switch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "testing/host_cuda_fiber.h"
#include "testing/host_cuda_index.h"

namespace host_cuda {

struct Thread {
  uint3 index;
  Fiber* fiber;  // null before it starts and after it returns
  // What it waits at or last waited at, what it brings there and what it takes away.
  const char* name;
  Place place;
  unsigned int mask;  // 0: all threads of the block
  int source;         // the lane whose value it takes
  std::uint64_t value;
  unsigned int ballot;
  int count;

  std::string what() const {
    return std::string(name) + "(" + (mask == 0 ? "" : text_of_mask(mask)) + ") at " +
           text_of(place);
  }
};

class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  // Stops the program as a device would stop the kernel, and says where.
  [[noreturn]] void stop(const std::string& message) const {
    std::fflush(stdout);
    std::fprintf(stderr, "%s by thread %s of block %s (launch seed %llu)\n", message.c_str(),
                 text_of(threadIdx).c_str(), text_of(blockIdx).c_str(),
                 static_cast<unsigned long long>(seed_));
    std::_Exit(EXIT_FAILURE);
  }

 protected:
  ~Threads() = default;

  // Makes the threads of the next block ready; false where there is no other block.
  virtual bool enter_block() = 0;

  // kernel(context) for every thread of every block that enter_block() makes.
  void run(void (*kernel)(void*), void* context) {
    kernel_ = kernel;
    context_ = context;
    if (enter_block() && draw()) program_.switch_to(idle_fiber());
  }

  Thread& self() { return threads_[current_]; }

  void make_all_ready() {
    returned_ = 0;
    ready_count_ = threads_.size();
    for (std::size_t i = 0; i < ready_count_; ++i) ready_[i] = static_cast<std::uint32_t>(i);
  }

  void make_ready(std::size_t thread) {
    ready_[ready_count_++] = static_cast<std::uint32_t>(thread);
  }

  // Leaves the current thread where it is and returns when it is drawn again.
  void wait() {
    const std::size_t self = current_;
    if (!draw()) stop_deadlocked();
    if (current_ == self) return;
    Fiber* const next = threads_[current_].fiber;
    threads_[self].fiber->switch_to(next != nullptr ? *next : idle_fiber());
  }

  std::uint64_t seed_ = 0;
  Random random_;
  std::vector<Thread> threads_;
  std::size_t current_ = 0;

 private:
  // Makes one of the ready threads the current one; false where none is.
  bool draw() {
    if (ready_count_ == 0) return false;
    const std::size_t at = random_.below(ready_count_);
    current_ = ready_[at];
    ready_[at] = ready_[--ready_count_];
    threadIdx = threads_[current_].index;
    return true;
  }

  // What every fiber does: run the current thread, then others that have not started, until only
  // threads that wait on other fibers are left.
  void run_on(Fiber& fiber) {
    while (true) {
      Thread& thread = threads_[current_];
      thread.fiber = &fiber;
      kernel_(context_);
      thread.fiber = nullptr;
      ++returned_;
      Fiber* next = nullptr;
      if (draw()) {
        next = threads_[current_].fiber;
      } else if (returned_ < threads_.size()) {
        stop_deadlocked();
      } else if (!enter_block() || !draw()) {
        next = &program_;
      }
      if (next != nullptr) {
        idle_.push_back(&fiber);
        fiber.switch_to(*next);
      }
    }
  }

  // A fiber that goes on with the current thread once it is switched to.
  Fiber& idle_fiber() {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>(
          [](void* threads, Fiber& fiber) { static_cast<Threads*>(threads)->run_on(fiber); },
          this));
      return *fibers_.back();
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return *fiber;
  }

  [[noreturn]] void stop_deadlocked() const {
    std::string text = "deadlock in block " + text_of(blockIdx) + " (launch seed " +
                       std::to_string(seed_) + "): no thread can go on";
    std::vector<const Thread*> left;
    for (const Thread& thread : threads_) left.push_back(&thread);
    while (!left.empty()) {
      // Those that are where the first of them is, a few by name.
      const auto where = [](const Thread& thread) {
        return thread.fiber == nullptr ? "returned" : "waiting in " + thread.what();
      };
      const std::string here = where(*left.front());
      std::vector<const Thread*> elsewhere;
      std::size_t count = 0;
      text += "\n  " + here + ": thread";
      for (const Thread* thread : left) {
        if (where(*thread) != here) {
          elsewhere.push_back(thread);
        } else if (++count <= 8) {
          text += (count == 1 ? " " : ", ") + text_of(thread->index);
        }
      }
      if (count > 8) text += " and " + std::to_string(count - 8) + " more";
      left = elsewhere;
    }
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", text.c_str());
    std::_Exit(EXIT_FAILURE);
  }

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
