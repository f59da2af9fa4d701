// Switching between stacks: how the threads of a block wait for each other in the emulation.
//
// On x86-64 a switch saves six registers and makes no system call; elsewhere (or with
// HOST_CUDA_UCONTEXT defined) it uses swapcontext. AddressSanitizer is notified of every switch, so
// its reports and stack traces stay correct. Each stack ends in a guard page that catches
// overflows.

#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__) && !defined(HOST_CUDA_UCONTEXT)
#define HOST_CUDA_X86_64_SWITCH 1
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define HOST_CUDA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOST_CUDA_ASAN 1
#endif
#endif

#if defined(HOST_CUDA_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
}
#endif

namespace host_cuda {

#if defined(HOST_CUDA_X86_64_SWITCH)
// Pushes the callee-saved registers onto this stack, stores the stack pointer in *save, switches to
// the stack `load`, and returns to where that stack was left.
[[gnu::naked, gnu::noinline]] inline void switch_stacks(void** /*save*/, void* /*load*/) {
  __asm__(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}
#endif

class Fiber {
 public:
  // The stack that the program runs on.
  Fiber() = default;

  // A stack of its own. The first switch to it calls entry(argument, *this), which never returns.
  Fiber(void (*entry)(void*, Fiber&), void* argument) : entry_(entry), argument_(argument) {
    mapping_ = ::mmap(nullptr, kMapping, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping_ == MAP_FAILED || ::mprotect(mapping_, kGuard, PROT_NONE) != 0) {
      std::perror("cannot allocate the stack of an emulated thread");
      std::_Exit(EXIT_FAILURE);
    }
    bottom_ = static_cast<char*>(mapping_) + kGuard;
    size_ = kMapping - kGuard;
#if defined(HOST_CUDA_X86_64_SWITCH)
    // Six registers, the address to return to, and a return address of 0, which ends stack traces.
    auto** const top = reinterpret_cast<void**>(static_cast<char*>(mapping_) + kMapping);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::begin);
    stack_pointer_ = top - 8;
#else
    ::getcontext(&context_);
    context_.uc_stack.ss_sp = static_cast<char*>(mapping_) + kGuard;
    context_.uc_stack.ss_size = size_;
    ::makecontext(&context_, &Fiber::begin, 0);
#endif
  }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (mapping_ != nullptr) ::munmap(mapping_, kMapping);
  }

  // Suspends this fiber, which must be the running one, until another switches back to it.
  void switch_to(Fiber& to) {
    left() = this;
    entered() = &to;
#if defined(HOST_CUDA_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
#endif
#if defined(HOST_CUDA_X86_64_SWITCH)
    switch_stacks(&stack_pointer_, to.stack_pointer_);
#else
    ::swapcontext(&context_, &to.context_);
#endif
    arrived();
  }

 private:
  static constexpr std::size_t kGuard = 16384;
  static constexpr std::size_t kMapping = 262144;

  // The fiber that the last switch left, and the one that it entered.
  static Fiber*& left() {
    static thread_local Fiber* fiber = nullptr;
    return fiber;
  }
  static Fiber*& entered() {
    static thread_local Fiber* fiber = nullptr;
    return fiber;
  }

  void arrived() {
#if defined(HOST_CUDA_ASAN)
    // This also returns the bounds of the stack that was left: the only way to learn those of the
    // program's stack.
    __sanitizer_finish_switch_fiber(fake_stack_, &left()->bottom_, &left()->size_);
#endif
  }

  static void begin() {
    Fiber* const self = entered();
    self->arrived();
    self->entry_(self->argument_, *self);
    std::fprintf(stderr, "the entry of a fiber has returned\n");
    std::_Exit(EXIT_FAILURE);
  }

  void (*entry_)(void*, Fiber&) = nullptr;
  void* argument_ = nullptr;
  void* mapping_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  void* fake_stack_ = nullptr;
#if defined(HOST_CUDA_X86_64_SWITCH)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_{};
#endif
};

}  // namespace host_cuda
