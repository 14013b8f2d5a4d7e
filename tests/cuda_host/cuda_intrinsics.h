// Atomics, bit operations, conversions and arithmetic of CUDA for the host; included by cuda_shim.h.
#pragma once

#include <limits>

#include "cuda_shim.h"

// ---- Atomics: threads are switched at barriers only, so plain reads and writes are atomic ----
#define CUDA_SHIM_ATOMIC(T, name, result) \
  inline T name(T* address, T value) {    \
    const T old = *address;               \
    *address = result;                    \
    return old;                           \
  }
#define CUDA_SHIM_ATOMIC_ANY(T)             \
  CUDA_SHIM_ATOMIC(T, atomicExch, value)    \
  CUDA_SHIM_ATOMIC(T, atomicAdd, old + value)
#define CUDA_SHIM_ATOMIC_INTEGER(T)                             \
  CUDA_SHIM_ATOMIC_ANY(T)                                       \
  CUDA_SHIM_ATOMIC(T, atomicMin, value < old ? value : old)     \
  CUDA_SHIM_ATOMIC(T, atomicMax, value > old ? value : old)     \
  CUDA_SHIM_ATOMIC(T, atomicOr, old | value)                    \
  CUDA_SHIM_ATOMIC(T, atomicAnd, old & value)                   \
  CUDA_SHIM_ATOMIC(T, atomicXor, old ^ value)                   \
  inline T atomicCAS(T* address, T compare, T value) {          \
    const T old = *address;                                     \
    if (old == compare) *address = value;                       \
    return old;                                                 \
  }
CUDA_SHIM_ATOMIC_ANY(float)
CUDA_SHIM_ATOMIC_ANY(double)
CUDA_SHIM_ATOMIC_INTEGER(int)
CUDA_SHIM_ATOMIC_INTEGER(unsigned int)
CUDA_SHIM_ATOMIC_INTEGER(unsigned long long)
// CUDA has 64-bit signed minima and maxima, but no signed 64-bit add.
CUDA_SHIM_ATOMIC(long long, atomicMin, value < old ? value : old)
CUDA_SHIM_ATOMIC(long long, atomicMax, value > old ? value : old)
#undef CUDA_SHIM_ATOMIC_INTEGER
#undef CUDA_SHIM_ATOMIC_ANY
#undef CUDA_SHIM_ATOMIC

// ---- Bits and arithmetic ----
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= ((x >> i) & 1u) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
inline long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }

template <class T>
inline T __ldg(const T* address) { return *address; }

inline unsigned __float_as_uint(float x) { return cuda_shim::from_bits<unsigned>(cuda_shim::to_bits(x)); }
inline int __float_as_int(float x) { return cuda_shim::from_bits<int>(cuda_shim::to_bits(x)); }
inline float __uint_as_float(unsigned x) { return cuda_shim::from_bits<float>(x); }
inline float __int_as_float(int x) { return cuda_shim::from_bits<float>((unsigned)x); }
inline long long __double_as_longlong(double x) { return cuda_shim::from_bits<long long>(cuda_shim::to_bits(x)); }
inline double __longlong_as_double(long long x) { return cuda_shim::from_bits<double>((unsigned long long)x); }

// CUDA's conversions saturate and turn NaN into 0; a C++ cast that overflows is reported by UBSan instead.
namespace cuda_shim {
template <class I, class F>
I saturate(F x) {
  using Limits = std::numeric_limits<I>;
  if (!(x == x)) return 0;
  if (x <= (F)Limits::min()) return Limits::min();
  if (x >= (F)Limits::max()) return Limits::max();
  return (I)x;
}
}  // namespace cuda_shim
#define CUDA_SHIM_CONVERT(F, from, I, to)                                                        \
  inline I __##from##2##to##_rn(F x) { return cuda_shim::saturate<I>(rint((double)x)); }         \
  inline I __##from##2##to##_rz(F x) { return cuda_shim::saturate<I>(trunc((double)x)); }        \
  inline I __##from##2##to##_rd(F x) { return cuda_shim::saturate<I>(floor((double)x)); }        \
  inline I __##from##2##to##_ru(F x) { return cuda_shim::saturate<I>(ceil((double)x)); }
CUDA_SHIM_CONVERT(float, float, int, int)
CUDA_SHIM_CONVERT(float, float, unsigned, uint)
CUDA_SHIM_CONVERT(float, float, long long, ll)
CUDA_SHIM_CONVERT(double, double, int, int)
CUDA_SHIM_CONVERT(double, double, unsigned, uint)
CUDA_SHIM_CONVERT(double, double, long long, ll)
#undef CUDA_SHIM_CONVERT

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

#define CUDA_SHIM_MINMAX(T)                                \
  inline T min(T a, T b) { return b < a ? b : a; }         \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_SHIM_MINMAX(int)
CUDA_SHIM_MINMAX(unsigned int)
CUDA_SHIM_MINMAX(long long)
CUDA_SHIM_MINMAX(unsigned long long)
#undef CUDA_SHIM_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
