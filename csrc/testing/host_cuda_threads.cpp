// The threads of a block (contract: host_cuda_threads.h), compiled once for all tests.

#include "testing/host_cuda_threads.h"

#include <cstdio>
#include <cstdlib>

namespace host_cuda {

std::string Thread::what() const {
  return std::string(name) + "(" + (mask == 0 ? "" : text_of_mask(mask)) + ") at " + text_of(place);
}

[[noreturn]] void Threads::stop(const std::string& message) const {
  std::fflush(stdout);
  std::fprintf(stderr, "%s by thread %s of block %s (launch seed %llu)\n", message.c_str(),
               text_of(threadIdx).c_str(), text_of(blockIdx).c_str(),
               static_cast<unsigned long long>(seed_));
  std::_Exit(EXIT_FAILURE);
}

void Threads::run(void (*kernel)(void*), void* context) {
  kernel_ = kernel;
  context_ = context;
  if (enter_block() && draw()) program_.switch_to(idle_fiber());
}

void Threads::make_all_ready() {
  returned_ = 0;
  ready_count_ = threads_.size();
  for (std::size_t i = 0; i < ready_count_; ++i) ready_[i] = static_cast<std::uint32_t>(i);
}

void Threads::wait() {
  const std::size_t self = current_;
  if (!draw()) stop_deadlocked();
  if (current_ == self) return;
  Fiber* const next = threads_[current_].fiber;
  threads_[self].fiber->switch_to(next != nullptr ? *next : idle_fiber());
}

bool Threads::draw() {
  if (ready_count_ == 0) return false;
  const std::size_t at = random_.below(ready_count_);
  current_ = ready_[at];
  ready_[at] = ready_[--ready_count_];
  threadIdx = threads_[current_].index;
  return true;
}

void Threads::run_on(Fiber& fiber) {
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

Fiber& Threads::idle_fiber() {
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(
        [](void* threads, Fiber& fiber) { static_cast<Threads*>(threads)->run_on(fiber); }, this));
    return *fibers_.back();
  }
  Fiber* const fiber = idle_.back();
  idle_.pop_back();
  return *fiber;
}

[[noreturn]] void Threads::stop_deadlocked() const {
  std::string text = "deadlock in block " + text_of(blockIdx) + " (launch seed " +
                     std::to_string(seed_) + "): no thread can continue";
  std::vector<const Thread*> left;
  for (const Thread& thread : threads_) left.push_back(&thread);
  while (!left.empty()) {
    // Lists the threads that are at the same place as the first, a few of them by index.
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

}  // namespace host_cuda
