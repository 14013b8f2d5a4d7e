// Faults of a kernel become the error of its launch, instead of a message or a dead process.
#include <signal.h>

#include "cuda_shim.h"

// ---- Reads far outside any array, and stacks that overflow ----
namespace cuda_shim {
namespace {
constexpr int kSignals[2] = {SIGSEGV, SIGBUS};
struct sigaction before[2];
stack_t stack_before;
char handler_stack[64 * 1024];  // the thread that overflows its own has none left

void report(int, siginfo_t* info, void*) {
  fail("memory access outside all arrays, or stack overflow, at address %p (block (%u,%u,%u), thread (%u,%u,%u))",
       info->si_addr, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}
}  // namespace

void catch_faults() {
  stack_t own = {};
  own.ss_sp = handler_stack;
  own.ss_size = sizeof handler_stack;
  sigaltstack(&own, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = report;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // fail() never returns here
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &action, &before[i]);
}

void release_faults() {
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}
}  // namespace cuda_shim

// ---- UBSan ----
// Every handler's first argument starts with the place in the source (the layout is part of the compiler's interface).
namespace {
struct Place {
  const char* file;
  unsigned line, column;
};
}  // namespace

#define UBSAN_HANDLER(name, text)                                                                  \
  extern "C" void __ubsan_handle_##name(Place* place, ...) {                                       \
    cuda_shim::fail("%s:%u:%u: %s (block (%u,%u,%u), thread (%u,%u,%u))", place->file, place->line, \
                    place->column, text, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z); \
  }
UBSAN_HANDLER(add_overflow, "signed addition overflows")
UBSAN_HANDLER(sub_overflow, "signed subtraction overflows")
UBSAN_HANDLER(mul_overflow, "signed multiplication overflows")
UBSAN_HANDLER(negate_overflow, "signed negation overflows")
UBSAN_HANDLER(divrem_overflow, "integer division by zero, or overflow")
UBSAN_HANDLER(shift_out_of_bounds, "shift by a negative or too large amount, or of a sign bit")
UBSAN_HANDLER(out_of_bounds, "index outside the array")
UBSAN_HANDLER(type_mismatch_v1, "null or misaligned pointer, or too small an object")
UBSAN_HANDLER(pointer_overflow, "pointer arithmetic overflows")
UBSAN_HANDLER(float_cast_overflow, "the integer cannot hold the float (CUDA saturates; clamp or use __float2int_*)")
UBSAN_HANDLER(load_invalid_value, "a bool or enum holds another value: uninitialised?")
UBSAN_HANDLER(builtin_unreachable, "unreachable code was reached")
UBSAN_HANDLER(missing_return, "a function that returns a value ends without one")
UBSAN_HANDLER(vla_bound_not_positive, "array of variable length with a bound that is not positive")
UBSAN_HANDLER(invalid_builtin, "invalid argument of a builtin (clz or ctz of 0)")
UBSAN_HANDLER(nonnull_arg, "null passed where it must not be")
