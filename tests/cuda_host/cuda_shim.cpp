// The scheduler behind cuda_shim.h: blocks one after another, the threads of a block as fibers.
//
// A fiber runs thread after thread on one stack for as long as none has to wait. One that waits keeps its fiber, and
// the scheduler goes on with the next. Fibers start by ucontext and switch by _setjmp/_longjmp, which, unlike
// swapcontext, make no system call.
#include "cuda_shim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_shim {
namespace {

constexpr size_t kStack = 256 * 1024, kGuard = 64 * 1024;
constexpr unsigned kMaxThreads = 1024;
const char* const kNames[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count",
                              "__syncwarp",    "__ballot_sync",    "__any_sync",        "__all_sync",
                              "__shfl_sync (or _up, _down, _xor)"};

enum class State : unsigned char { fresh, runnable, in_block_barrier, in_collective, returned };

struct Fiber {
  ucontext_t entry;
  jmp_buf resume;
  void* stack = nullptr;
  bool started = false;
};

struct Thread {
  State state;
  Op op;
  Fiber* fiber;
  uint3 index;
  unsigned mask;
  int source, line;
  const char* file;
  unsigned long long value;  // what it brought to the barrier, then what it takes home
};

struct Block {
  void (*invoke)(void**);
  void** arguments;
  int count, started, returned, in_barrier;
  bool reverse;
  Thread threads[kMaxThreads];
  int queue[kMaxThreads], head, queued;  // runnable threads, first come first served
} block;

std::mutex one_launch_at_a_time;
std::vector<Fiber*> fibers, idle;
jmp_buf scheduler, failure;
int current;  // index of the running thread
Fiber* current_fiber;
char* error_text;
size_t error_capacity;

void enqueue(int thread) {
  block.threads[thread].state = State::runnable;
  block.queue[(block.head + block.queued++) % kMaxThreads] = thread;
}

__attribute__((noinline)) void leave_fiber() {
  if (!_setjmp(current_fiber->resume)) _longjmp(scheduler, 1);
}

void run_fresh_threads() {
  while (block.started < block.count && block.queued == 0) {
    const int order = block.started++;
    current = block.reverse ? block.count - 1 - order : order;
    Thread& thread = block.threads[current];
    thread.state = State::runnable;
    thread.fiber = current_fiber;
    threadIdx = thread.index;
    block.invoke(block.arguments);
    block.threads[current].state = State::returned;
    ++block.returned;
  }
}

void fiber_main() {
  for (;;) {
    run_fresh_threads();
    idle.push_back(current_fiber);
    leave_fiber();
  }
}

Fiber* new_fiber() {
  Fiber* fiber = new Fiber;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) fail("cannot map the stack of a CUDA thread");
  mprotect(memory, kGuard, PROT_NONE);  // an overflow stops at once instead of writing into a neighbour
  fiber->stack = static_cast<char*>(memory) + kGuard;
  fibers.push_back(fiber);
  return fiber;
}

__attribute__((noinline)) void enter_fiber(Fiber* fiber) {
  current_fiber = fiber;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->resume, 1);
  fiber->started = true;
  getcontext(&fiber->entry);
  fiber->entry.uc_stack.ss_sp = fiber->stack;
  fiber->entry.uc_stack.ss_size = kStack;
  fiber->entry.uc_link = nullptr;
  makecontext(&fiber->entry, fiber_main, 0);
  setcontext(&fiber->entry);
}

void wait() {
  const int self = current;
  leave_fiber();
  current = self;
  threadIdx = block.threads[self].index;
}

bool same_place(const Thread& a, const Thread& b) {
  return a.op == b.op && a.line == b.line && !strcmp(a.file, b.file);
}

[[noreturn]] void report_deadlock() {
  char text[512];
  int used = snprintf(text, sizeof text, "block (%u,%u,%u) cannot go on: %d of %d threads have returned", blockIdx.x,
                      blockIdx.y, blockIdx.z, block.returned, block.count);
  static bool told[kMaxThreads];  // static: fail() leaves without running destructors
  memset(told, 0, sizeof told);
  for (int i = 0; i < block.count && used < (int)sizeof text; ++i) {
    const Thread& a = block.threads[i];
    if (told[i] || a.state == State::returned) continue;
    int alike = 0;
    for (int j = i; j < block.count; ++j) {
      const Thread& b = block.threads[j];
      if (b.state != a.state || !same_place(a, b) || (a.state == State::in_collective && a.mask != b.mask)) continue;
      told[j] = true;
      ++alike;
    }
    used += snprintf(text + used, sizeof text - used, "; %d wait (the first is thread %d) in %s at %s:%d", alike, i,
                     kNames[(int)a.op], a.file, a.line);
    if (a.state == State::in_collective && used < (int)sizeof text)
      used += snprintf(text + used, sizeof text - used, " with mask 0x%08x", a.mask);
  }
  fail("%s", text);
}

void run_block() {
  block.started = block.returned = block.in_barrier = block.head = block.queued = 0;
  for (int i = 0; i < block.count; ++i) block.threads[i].state = State::fresh;
  while (block.returned < block.count) {
    if (block.queued) {
      const int next = block.queue[block.head];
      block.head = (block.head + 1) % kMaxThreads;
      --block.queued;
      enter_fiber(block.threads[next].fiber);
    } else if (block.started < block.count) {
      Fiber* fiber;
      if (idle.empty()) {
        fiber = new_fiber();
      } else {
        fiber = idle.back();
        idle.pop_back();
      }
      enter_fiber(fiber);
    } else {
      report_deadlock();
    }
  }
}

// Threads of the warp of `thread` that are in `mask` and exist, as a mask.
unsigned participants(int thread, unsigned mask) {
  const int lanes = block.count - (thread & ~31);
  return lanes >= 32 ? mask : mask & ((1u << lanes) - 1u);
}

void set_dimensions(const unsigned* grid, const unsigned* threads) {
  const unsigned long long count = (unsigned long long)threads[0] * threads[1] * threads[2];
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535u || grid[2] > 65535u)
    fail("grid (%u,%u,%u): wanted 1..2^31-1, 1..65535, 1..65535", grid[0], grid[1], grid[2]);
  if (!count || threads[0] > kMaxThreads || threads[1] > kMaxThreads || threads[2] > 64u || count > kMaxThreads)
    fail("block (%u,%u,%u): wanted 1 to 1024 threads, at most 64 along z", threads[0], threads[1], threads[2]);
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads[0], threads[1], threads[2]};
  block.count = (int)count;
  for (int i = 0; i < block.count; ++i) {
    const unsigned t = (unsigned)i;
    block.threads[i].index = {t % threads[0], t / threads[0] % threads[1], t / threads[0] / threads[1]};
  }
}

void run_grid(Shared shared) {
  const unsigned long long blocks = (unsigned long long)gridDim.x * gridDim.y * gridDim.z;
  for (unsigned long long i = 0; i < blocks; ++i) {
    const unsigned long long b = block.reverse ? blocks - 1 - i : i;
    blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                (unsigned)(b / gridDim.x / gridDim.y)};
    if (shared.begin) memset(shared.begin, 0xCD, (size_t)(shared.end - shared.begin));
    run_block();
  }
}

}  // namespace

int lane_id() { return current & 31; }

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error_text, error_capacity, format, arguments);
  va_end(arguments);
  // The fibers that still wait are abandoned; they start afresh at the next launch.
  idle = fibers;
  for (Fiber* fiber : fibers) fiber->started = false;
  _longjmp(failure, 1);
}

int block_barrier(Op op, int predicate, const char* file, int line) {
  Thread& self = block.threads[current];
  self.op = op;
  self.value = predicate != 0;
  self.file = file;
  self.line = line;
  if (++block.in_barrier < block.count) {
    self.state = State::in_block_barrier;
    wait();
    return (int)self.value;
  }
  int sum = 0;
  for (int i = 0; i < block.count; ++i) {
    if (!same_place(block.threads[i], self))
      fail("threads of block (%u,%u,%u) meet at different barriers: thread %d in %s at %s:%d, thread %d in %s at %s:%d",
           blockIdx.x, blockIdx.y, blockIdx.z, i, kNames[(int)block.threads[i].op], block.threads[i].file,
           block.threads[i].line, current, kNames[(int)op], file, line);
    sum += (int)block.threads[i].value;
  }
  const int result = op == Op::sync_or ? sum > 0 : op == Op::sync_and ? sum == block.count : sum;
  for (int k = 0; k < block.count; ++k) {
    const int i = block.reverse ? block.count - 1 - k : k;
    block.threads[i].value = (unsigned long long)result;
    if (i != current) enqueue(i);
  }
  block.in_barrier = 0;
  return result;
}

unsigned long long warp_collective(Op op, unsigned mask, unsigned long long value, int source, const char* file,
                                   int line) {
  Thread& self = block.threads[current];
  Thread* const warp = &block.threads[current & ~31];
  const int lane = current & 31;
  self.op = op;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.file = file;
  self.line = line;
  const unsigned members = participants(current, mask);
  if (!(mask >> lane & 1u))
    fail("%s at %s:%d: lane %d calls it, but is not in its mask 0x%08x", kNames[(int)op], file, line, lane, mask);
  if (op == Op::shuffle && !(members >> source & 1u))
    fail("%s at %s:%d: lane %d reads from lane %d, which takes no part (mask 0x%08x)", kNames[(int)op], file, line,
         lane, source, members);
  self.state = State::in_collective;
  for (int i = 0; i < 32; ++i) {
    if (!(members >> i & 1u)) continue;
    if (warp[i].state != State::in_collective || warp[i].mask != mask || !same_place(warp[i], self)) {
      wait();
      return self.value;
    }
  }
  unsigned ballot = 0;
  unsigned long long values[32];
  for (int i = 0; i < 32; ++i) {
    if (!(members >> i & 1u)) continue;
    values[i] = warp[i].value;
    ballot |= (unsigned)(warp[i].value != 0) << i;
  }
  for (int k = 0; k < 32; ++k) {
    const int i = block.reverse ? 31 - k : k;
    if (!(members >> i & 1u)) continue;
    warp[i].value = op == Op::shuffle  ? values[warp[i].source]
                    : op == Op::ballot ? ballot
                    : op == Op::any    ? ballot != 0
                    : op == Op::all    ? ballot == members
                                       : 0;
    if (i != lane) enqueue((current & ~31) + i);
  }
  self.state = State::runnable;
  return self.value;
}

int launch(void (*invoke)(void**), void** arguments, const unsigned* grid, const unsigned* threads, int reverse,
           Shared shared, char* error, size_t error_size) {
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  error_text = error;
  error_capacity = error_size;
  catch_faults();
  if (_setjmp(failure)) {
    release_faults();
    return 1;
  }
  set_dimensions(grid, threads);
  block.invoke = invoke;
  block.arguments = arguments;
  block.reverse = reverse != 0;
  run_grid(shared);
  release_faults();
  return 0;
}

}  // namespace cuda_shim
