// CUDA's words with a host meaning, for g++. What kernels may use is described in tests/cuda_host/__init__.py.
//
// Included in front of a .cu file by `-include`. The scheduler is a translation unit of its own (cuda_shim.cpp): the
// compiler has to assume that shared and global memory change at every barrier.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define CUDA_SHIM_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
// One block runs at a time, so static storage serves; the section lets the launcher find and poison it.
#define __shared__ static __attribute__((section("cuda_shared")))

// ---- Vector types ---------------------------------------------------------------------------------------------------
#define CUDA_SHIM_VECTOR(T, N, ALIGN2, ALIGN4)                                       \
  struct alignas(ALIGN2) N##2 { T x, y; };                                           \
  struct N##3 { T x, y, z; };                                                        \
  struct alignas(ALIGN4) N##4 { T x, y, z, w; };                                     \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                               \
  inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                       \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_SHIM_VECTOR(float, float, 8, 16)
CUDA_SHIM_VECTOR(double, double, 16, 16)
CUDA_SHIM_VECTOR(int, int, 8, 16)
CUDA_SHIM_VECTOR(unsigned int, uint, 8, 16)
CUDA_SHIM_VECTOR(unsigned char, uchar, 2, 4)
CUDA_SHIM_VECTOR(long long, longlong, 16, 16)
#undef CUDA_SHIM_VECTOR

struct dim3 {
  unsigned int x, y, z;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- Scheduler ------------------------------------------------------------------------------------------------------
namespace cuda_shim {

enum class Op : unsigned char { sync, sync_or, sync_and, sync_count, warp_sync, ballot, any, all, shuffle };

// Waits until all threads of the block have come to this place; returns the combined predicate.
int block_barrier(Op op, int predicate, const char* file, int line);
// Waits until all lanes of `mask` have come to this place, then returns `value` of lane `source` (for shuffles) or the
// combined predicate.
unsigned long long warp_collective(Op op, unsigned mask, unsigned long long value, int source, const char* file,
                                   int line);
int lane_id();
[[noreturn]] void fail(const char* format, ...);
void catch_faults();  // faults.cpp
void release_faults();

struct Shared {  // the section of the `__shared__` arrays of one library
  char *begin, *end;
};
int launch(void (*invoke)(void** arguments), void** arguments, const unsigned* grid, const unsigned* block, int reverse,
           Shared shared, char* error, size_t error_size);

template <class T>
unsigned long long to_bits(T value) {
  static_assert(std::is_arithmetic<T>::value && sizeof(T) >= 4, "shuffles take int, unsigned, 64-bit, float, double");
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(unsigned long long bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// ---- Kernel signatures, read by host_device.py ----------------------------------------------------------------------
// One item per parameter, kind as NumPy's dtype.kind; a structure is followed by the items of its members.
template <class T>
constexpr char kind() {
  if (std::is_same<T, bool>::value) return 'b';
  if (std::is_floating_point<T>::value) return 'f';
  if (std::is_integral<T>::value) return std::is_signed<T>::value ? 'i' : 'u';
  return 'V';
}
#define CUDA_SHIM_VECTOR_KIND(T, K, S)                                                         \
  template <> constexpr char kind<T##2>() { return K; }                                        \
  template <> constexpr char kind<T##3>() { return K; }                                        \
  template <> constexpr char kind<T##4>() { return K; }                                        \
  inline constexpr int component(T##2) { return S; }                                           \
  inline constexpr int component(T##3) { return S; }                                           \
  inline constexpr int component(T##4) { return S; }
CUDA_SHIM_VECTOR_KIND(float, 'f', 4)
CUDA_SHIM_VECTOR_KIND(double, 'f', 8)
CUDA_SHIM_VECTOR_KIND(int, 'i', 4)
CUDA_SHIM_VECTOR_KIND(uint, 'u', 4)
CUDA_SHIM_VECTOR_KIND(uchar, 'u', 1)
CUDA_SHIM_VECTOR_KIND(longlong, 'i', 8)
#undef CUDA_SHIM_VECTOR_KIND
template <class T>
constexpr int component(T) { return sizeof(T); }

struct Parameter {  // mirrored by host_device.py
  int pointer, kind, component, size, alignment, writes;
  int offset, members;  // within the structure that holds it; of a structure by value
};

// Number of members of a structure: the most initialisers that its braces take.
struct Anything {
  template <class T>
  operator T() const;
};
template <size_t>
using AnythingAt = Anything;
template <class T, size_t... I>
auto takes(std::index_sequence<I...>) -> decltype(T{AnythingAt<I>()...}, std::true_type());
template <class T>
std::false_type takes(...);
template <class T, size_t N = 16>
constexpr size_t members() {
  if constexpr (decltype(takes<T>(std::make_index_sequence<N>()))::value) return N;
  else return members<T, N - 1>();
}

template <class T>
Parameter* describe(const T& value, int offset, Parameter* out);

// The members of a structure, in order, by a structured binding of as many names.
#define CUDA_SHIM_MEMBERS(N, ...)        \
  if constexpr (members<T>() == N) {     \
    const auto& [__VA_ARGS__] = value;   \
    return visit(__VA_ARGS__);           \
  }
template <class T>
Parameter* describe_members(const T& value, Parameter* out) {
  const auto visit = [&](const auto&... member) {
    ((out = describe(member, int((const char*)&member - (const char*)&value), out)), ...);
    return out;
  };
  CUDA_SHIM_MEMBERS(1, a)
  CUDA_SHIM_MEMBERS(2, a, b)
  CUDA_SHIM_MEMBERS(3, a, b, c)
  CUDA_SHIM_MEMBERS(4, a, b, c, d)
  CUDA_SHIM_MEMBERS(5, a, b, c, d, e)
  CUDA_SHIM_MEMBERS(6, a, b, c, d, e, f)
  CUDA_SHIM_MEMBERS(7, a, b, c, d, e, f, g)
  CUDA_SHIM_MEMBERS(8, a, b, c, d, e, f, g, h)
  CUDA_SHIM_MEMBERS(9, a, b, c, d, e, f, g, h, i)
  CUDA_SHIM_MEMBERS(10, a, b, c, d, e, f, g, h, i, j)
  CUDA_SHIM_MEMBERS(11, a, b, c, d, e, f, g, h, i, j, k)
  CUDA_SHIM_MEMBERS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  CUDA_SHIM_MEMBERS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  CUDA_SHIM_MEMBERS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, n)
  CUDA_SHIM_MEMBERS(15, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)
  CUDA_SHIM_MEMBERS(16, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}
#undef CUDA_SHIM_MEMBERS

// Writes the item of a parameter or member and of what it holds, unless `out` counts only; returns the end.
template <class T>
Parameter* describe(const T& value, int offset, Parameter* out) {
  using P = typename std::remove_pointer<T>::type;
  using V = typename std::remove_cv<P>::type;
  static_assert(!std::is_void<V>::value, "kernel parameters are typed pointers, not void*");
  constexpr bool structure = std::is_class<T>::value && kind<V>() == 'V';
  Parameter item = {std::is_pointer<T>::value, kind<V>(), component(V{}), sizeof(V), alignof(V),
                    !std::is_const<P>::value, offset, 0};
  if constexpr (structure) {
    item.members = members<T>();
    *out++ = item;
    return describe_members(value, out);
  }
  *out++ = item;
  return out;
}
constexpr size_t MAX_ITEMS = 128;  // of a kernel, members included; host_device.py reads no more

template <auto Kernel>
struct Entry;
template <class... A, void (*Kernel)(A...)>
struct Entry<Kernel> {
  static int signature(Parameter* out) {
    const Parameter* begin = out;
    ((out = describe(typename std::remove_cv<A>::type{}, 0, out)), ...);
    return int(out - begin);
  }
  template <size_t... I>
  static void call(void** arguments, std::index_sequence<I...>) {
    Kernel(*static_cast<typename std::remove_cv<A>::type*>(arguments[I])...);
  }
  static void invoke(void** arguments) { call(arguments, std::index_sequence_for<A...>{}); }
};

}  // namespace cuda_shim

extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

#define CUDA_SHIM_ENTRY extern "C" __attribute__((visibility("default")))
#define CUDA_SHIM_EXPORT(name)                                                                                      \
  CUDA_SHIM_ENTRY int cuda_shim_signature_##name(cuda_shim::Parameter* out) {                                       \
    return cuda_shim::Entry<&name>::signature(out);                                                                 \
  }                                                                                                                 \
  CUDA_SHIM_ENTRY int cuda_shim_launch_##name(const unsigned* grid, const unsigned* block, int reverse,             \
                                              void** arguments, char* error, size_t error_size) {                   \
    return cuda_shim::launch(&cuda_shim::Entry<&name>::invoke, arguments, grid, block, reverse,                     \
                             {__start_cuda_shared, __stop_cuda_shared}, error, error_size);                         \
  }

// ---- Barriers and warp collectives ----------------------------------------------------------------------------------
#define CUDA_SHIM_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_SHIM_PLACE) { cuda_shim::block_barrier(cuda_shim::Op::sync, 0, file, line); }
inline int __syncthreads_or(int predicate, CUDA_SHIM_PLACE) {
  return cuda_shim::block_barrier(cuda_shim::Op::sync_or, predicate, file, line);
}
inline int __syncthreads_and(int predicate, CUDA_SHIM_PLACE) {
  return cuda_shim::block_barrier(cuda_shim::Op::sync_and, predicate, file, line);
}
inline int __syncthreads_count(int predicate, CUDA_SHIM_PLACE) {
  return cuda_shim::block_barrier(cuda_shim::Op::sync_count, predicate, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_SHIM_PLACE) {
  cuda_shim::warp_collective(cuda_shim::Op::warp_sync, mask, 0, 0, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_SHIM_PLACE) {
  return (unsigned)cuda_shim::warp_collective(cuda_shim::Op::ballot, mask, predicate != 0, 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, CUDA_SHIM_PLACE) {
  return (int)cuda_shim::warp_collective(cuda_shim::Op::any, mask, predicate != 0, 0, file, line);
}
inline int __all_sync(unsigned mask, int predicate, CUDA_SHIM_PLACE) {
  return (int)cuda_shim::warp_collective(cuda_shim::Op::all, mask, predicate != 0, 0, file, line);
}

// Lanes are cut into segments of `width` (a power of two); what would leave the segment reads the lane itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_SHIM_PLACE) {
  const int lane = cuda_shim::lane_id(), base = lane & ~(width - 1);
  return cuda_shim::from_bits<T>(cuda_shim::warp_collective(
      cuda_shim::Op::shuffle, mask, cuda_shim::to_bits(value), base + (source & (width - 1)), file, line));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_SHIM_PLACE) {
  const int lane = cuda_shim::lane_id(), source = lane - (int)delta;
  return cuda_shim::from_bits<T>(cuda_shim::warp_collective(cuda_shim::Op::shuffle, mask, cuda_shim::to_bits(value),
                                                            source < (lane & ~(width - 1)) ? lane : source, file,
                                                            line));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_SHIM_PLACE) {
  const int lane = cuda_shim::lane_id(), source = lane + (int)delta;
  return cuda_shim::from_bits<T>(cuda_shim::warp_collective(cuda_shim::Op::shuffle, mask, cuda_shim::to_bits(value),
                                                            source > (lane | (width - 1)) ? lane : source, file,
                                                            line));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_SHIM_PLACE) {
  const int lane = cuda_shim::lane_id(), source = lane ^ lane_mask;
  return cuda_shim::from_bits<T>(cuda_shim::warp_collective(cuda_shim::Op::shuffle, mask, cuda_shim::to_bits(value),
                                                            source > (lane | (width - 1)) ? lane : source, file,
                                                            line));
}
#undef CUDA_SHIM_PLACE

inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { cuda_shim::fail("__trap() was called"); }

#include "cuda_intrinsics.h"
