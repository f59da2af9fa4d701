// A launch: its blocks in an order drawn from a seed, and what the threads of a block do together.
//
// What would hang or crash a device stops the program with a message that names the threads: a
// barrier at which some threads wait while others have returned or wait elsewhere, and a collective
// whose lanes disagree or do not all arrive.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "testing/host_cuda_index.h"
#include "testing/host_cuda_threads.h"

namespace host_cuda {

struct Options {
  std::uint64_t seed = 0;
  std::size_t dynamic_shared_bytes = 0;
};

class Launch final : public Threads {
 public:
  // The launch that the calling kernel belongs to.
  static Launch& current();

  // Calls kernel(context) for every thread of every block.
  void run(const Options& options, dim3 grid, dim3 block, void (*kernel)(void*), void* context);

  // A barrier for the whole block. Returns how many threads passed a true `predicate`.
  int sync_block(const char* name, const Place& place, bool predicate);

  int lane() const { return static_cast<int>(current_ % warpSize); }

  struct Exchanged {
    std::uint64_t value;  // what the source lane passed, or garbage if it does not take part
    unsigned int ballot;  // the lanes that passed a nonzero value
  };

  // A collective of the lanes in `mask`: each passes a value and receives that of lane `source`.
  Exchanged exchange(const char* name, const Place& place, unsigned int mask, std::uint64_t value,
                     int source);

  void* dynamic_shared() const;

  // Counts the blocks of all launches.
  std::uint64_t block_serial() const { return block_serial_; }

  // Fills memory that no thread has written: with all ones, which is NaN, or with 0x7f7f..., which
  // is finite and huge.
  void fill_with_garbage(void* memory, std::size_t bytes) const;

 private:
  struct FreeAligned {
    void operator()(unsigned char* memory) const {
      ::operator delete(memory, std::align_val_t{16});
    }
  };

  static void check(const Options& options, dim3 grid, dim3 block);

  bool enter_block() override;

  void come_to(const char* name, const Place& place, unsigned int mask);

  void require_same(const Thread& other);

  [[noreturn]] void stop_disagreeing(const char* who, const Thread& other);

  // Called once all lanes of the mask have arrived: exchanges their values and resumes them.
  void complete(std::size_t base, unsigned int mask);

  std::uint64_t blocks_ = 1, blocks_left_ = 0, block_ = 0, block_step_ = 1, block_serial_ = 0;
  bool finite_garbage_ = false;
  std::size_t at_barrier_ = 0, first_at_barrier_ = 0;
  int predicates_ = 0;
  unsigned int waiting_lanes_[32] = {};
  std::size_t dynamic_shared_bytes_ = 0;
  std::unique_ptr<unsigned char[], FreeAligned> dynamic_shared_;
};

}  // namespace host_cuda
