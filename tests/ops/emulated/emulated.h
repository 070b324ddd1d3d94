// The CUDA kernels on the CPU: every thread of a block is a fiber, blocks run one after the other. It checks what the kernels
// compute and that their barriers are where they must be (threads run in either order, see FERCORE_EMULATED_ORDER), not their speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, gridDim;
using std::exp;
using std::fma;

namespace emulated {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;
constexpr size_t kSharedBytes = 48 * 1024;

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

inline double shared[kSharedBytes / sizeof(double)];

// One block of threads as fibers; a thread runs until it waits at a barrier or ends. They begin in contexts of their own and
// change by jumps: swapcontext asks the system for the signal mask each time, most of the time these kernels took.
class Block {
 public:
  static Block& get() {
    static Block block;
    return block;
  }

  void run(const std::function<void()>& body) {
    body_ = &body;
    const char* order = std::getenv("FERCORE_EMULATED_ORDER");
    backwards_ = order != nullptr && std::strcmp(order, "backwards") == 0;
    for (int t = 0; t < kThreads; ++t) {
      getcontext(&contexts_[t]);
      contexts_[t].uc_stack.ss_sp = stacks_.get() + t * kStack;
      contexts_[t].uc_stack.ss_size = kStack;
      makecontext(&contexts_[t], &Block::start, 0);
      state_[t] = State::kReady;
      begun_[t] = false;
    }
    while (step()) {
    }
  }

  void wait(State where) {
    state_[current_] = where;
    if (_setjmp(places_[current_]) == 0) _longjmp(scheduler_, 1);
  }

  double exchange(double value, int other) {
    slots_[current_] = value;
    wait(State::kAtWarpBarrier);
    const double found = slots_[current_ / kWarp * kWarp + other];
    wait(State::kAtWarpBarrier);  // nobody writes before everybody has read
    return found;
  }

 private:
  Block() : stacks_(new char[kThreads * kStack]) {}

  static void start() {
    (*get().body_)();
    get().state_[get().current_] = State::kDone;
    _longjmp(get().scheduler_, 1);
  }

  // Runs a thread up to its next barrier; a function of its own, for a jump back leaves changed variables undefined.
  [[gnu::noinline]] void resume() {
    if (_setjmp(scheduler_) != 0) return;
    if (begun_[current_]) _longjmp(places_[current_], 1);
    begun_[current_] = true;
    setcontext(&contexts_[current_]);
  }

  // One turn for every thread that may run; false once all have ended.
  bool step() {
    bool ran = false;
    for (int i = 0; i < kThreads; ++i) {
      const int t = backwards_ ? kThreads - 1 - i : i;
      if (state_[t] != State::kReady) continue;
      ran = true;
      current_ = t;
      threadIdx = dim3(t);
      resume();
    }
    bool released = false;
    for (int first = 0; first < kThreads; first += kWarp) released |= release(first, first + kWarp, State::kAtWarpBarrier);
    if (!released) released = release(0, kThreads, State::kAtBlockBarrier);
    if (ran || released) return true;
    for (const State state : state_)
      if (state != State::kDone) throw std::runtime_error("threads wait at different barriers");
    return false;
  }

  // Lets go the threads [from, to) if all that have not ended wait at this kind of barrier.
  bool release(int from, int to, State kind) {
    int waiting = 0;
    for (int t = from; t < to; ++t) {
      if (state_[t] == State::kDone) continue;
      if (state_[t] != kind) return false;
      ++waiting;
    }
    for (int t = from; t < to; ++t)
      if (state_[t] == kind) state_[t] = State::kReady;
    return waiting > 0;
  }

  std::unique_ptr<char[]> stacks_;
  const std::function<void()>* body_ = nullptr;
  ucontext_t contexts_[kThreads];
  jmp_buf scheduler_, places_[kThreads];
  bool begun_[kThreads] = {};
  State state_[kThreads] = {};
  double slots_[kThreads] = {};
  int current_ = 0;
  bool backwards_ = false;  // threads run from the last to the first
};

struct Device {
  template <class Tensor>
  explicit Device(const Tensor&) {}
  void zero(void* memory, size_t bytes) const { std::memset(memory, 0, bytes); }
};

inline double* dynamic_shared() { return shared; }

template <class... P, class... A>
void launch(const Device&, void (*kernel)(P...), dim3 grid, size_t memory, const A&... arguments) {
  if (memory > kSharedBytes) throw std::runtime_error("a block has 48 KiB of shared memory");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) throw std::runtime_error("an empty grid");
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::memset(shared, 0xff, sizeof shared);  // NaN: nothing may be read before it is written
        Block::get().run([&] { kernel(static_cast<P>(arguments)...); });
      }
}

}  // namespace emulated

inline void __syncthreads() { emulated::Block::get().wait(emulated::State::kAtBlockBarrier); }
inline void __threadfence() {}
inline double __shfl_xor_sync(unsigned, double value, int step) {
  return emulated::Block::get().exchange(value, (threadIdx.x % emulated::kWarp) ^ step);
}
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  const unsigned before = *at;
  *at += value;
  return before;
}

#define CUDA CPU  // the dispatch key that the kernels register for
