// What test_shim.py runs: first what CUDA defines, then what it leaves undefined.
#include "shim_kernels.cuh"

// extern "C" __global__ void not_a_kernel(int* out) {}
extern "C" __global__ void nothing() {}

extern "C" __global__ void indices(int* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = twice(i) + (int)gridDim.x * 1000;
}

extern "C" __global__ void __launch_bounds__(256) block_sum(const float* __restrict__ x, float* out, int n) {
  __shared__ float sums[256];
  const int t = threadIdx.x;
  float sum = 0;
  for (int i = t; i < n; i += blockDim.x) sum += x[i];
  sums[t] = sum;
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (t < step) sums[t] += sums[t + step];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = sums[0];
}

extern "C" __global__ void shuffles(const double* in, double* out) {
  const unsigned all = 0xffffffffu;
  const int t = threadIdx.x, n = blockDim.x;
  const double v = in[t];
  out[t] = __shfl_sync(all, v, 5);
  out[n + t] = __shfl_up_sync(all, v, 3);
  out[2 * n + t] = __shfl_down_sync(all, v, 3, 16);
  out[3 * n + t] = __shfl_xor_sync(all, v, 9);
  out[4 * n + t] = (double)__shfl_sync(all, (long long)t << 33, t + 1, 8);
  out[5 * n + t] = (double)__shfl_sync(all, (float)v, 31 - t % 32);
}

extern "C" __global__ void votes(unsigned* out) {
  const int t = threadIdx.x, n = blockDim.x;
  const unsigned half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  out[t] = __ballot_sync(0xffffffffu, t % 3 == 0);
  out[n + t] = __ballot_sync(half, t % 2);
  out[2 * n + t] = __any_sync(half, t == 40) | __all_sync(half, t >= 32) << 1;
  out[3 * n + t] = __syncthreads_or(t == 7) | __syncthreads_and(t < n) << 1 | __syncthreads_count(t < 11) << 2;
}

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* ull, float* f, double* d, long long* ll) {
  const int t = threadIdx.x;
  atomicAdd(&i[0], t); atomicMin(&i[1], -t); atomicMax(&i[2], t); atomicCAS(&i[3], t, t + 1); atomicExch(&i[4], t);
  atomicAdd(&u[0], 3u); atomicMin(&u[1], (unsigned)t + 2u); atomicMax(&u[2], (unsigned)t);
  atomicOr(&u[3], 1u << t % 32);
  atomicAdd(&ull[0], 1ull << 40); atomicMin(&ull[1], (5ull << 32) + t); atomicMax(&ull[2], 1ull << t % 64);
  atomicCAS(&ull[3], 0ull, 9ull); atomicExch(&ull[4], 77ull);
  atomicAdd(f, 0.5f); atomicAdd(d, 0.25); atomicMin(&ll[0], -t * (1ll << 33)); atomicMax(&ll[1], t * (1ll << 33));
}

extern "C" __global__ void bits(unsigned long long* out, float* f) {
  out[0] = __popc(0xf0u); out[1] = __popcll(~0ull); out[2] = __clz(1); out[3] = __clz(0); out[4] = __ffs(8);
  out[5] = __ffs(0); out[6] = __umulhi(0xffffffffu, 0xffffffffu); out[7] = __umul64hi(~0ull, ~0ull);
  out[8] = __float_as_uint(1.0f); out[9] = __brev(1u); out[10] = (unsigned long long)__float2int_rn(2.5f);
  out[11] = (unsigned long long)__float2int_rz(1e20f); out[12] = (unsigned long long)__double2ll_rd(2.9);
  out[13] = __float2uint_rn(-5.0f); out[14] = min(3, 2); out[15] = (unsigned long long)__double_as_longlong(1.0);
  out[16] = __clzll(1); out[17] = (unsigned long long)max(2.0, 3.0); out[18] = __float2int_rn(0.0f / (f[0] - f[0]));
  float s, c;
  sincosf(0.5f, &s, &c);
  f[0] = rsqrtf(4.0f); f[1] = s; f[2] = c; f[3] = fmaf(2.0f, 3.0f, 4.0f); f[4] = __uint_as_float(0x3f800000u);
  f[5] = __ldg(&f[4]); f[6] = __int_as_float(0x40000000); f[7] = make_float4(1, 2, 3, 4).w + make_int2(5, 6).y;
}

extern "C" __global__ void swap_pairs(const float4* in, float4* out) {
  __shared__ float4 tile[64];
  tile[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[threadIdx.x ^ 1];
}

extern "C" __global__ void last_block(const int* in, int* sums, unsigned* done, int* total) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = in[blockIdx.x];
    __threadfence();
    last = atomicAdd(done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) for (unsigned b = 0; b < gridDim.x; ++b) *total += sums[b];
}

extern "C" __global__ void three_axes(int* out) {
  const unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  const unsigned z = blockIdx.z * blockDim.z + threadIdx.z, w = gridDim.x * blockDim.x, h = gridDim.y * blockDim.y;
  out[(z * h + y) * w + x] = (int)(x + 10 * y + 100 * z);
}

__constant__ const int table[3] = {4, 5, 6};
extern "C" __global__ void constants(int* out) { out[threadIdx.x] = table[threadIdx.x]; }
extern "C" __global__ void maybe(int* out, const float* optional) { out[0] = optional == nullptr; }

struct Inner {
  const float* in;
  bool flag;
};
struct Outer {
  int count;
  double factor;
  Inner inner;
  float* out;
  unsigned char last;
};
extern "C" __global__ void structures(Outer s, const Inner other, int n) {
  if ((int)threadIdx.x < s.count) s.out[threadIdx.x] = (float)s.factor * s.inner.in[threadIdx.x] + s.last;
  if (threadIdx.x == 0) s.out[n] = (s.inner.flag ? 1.0f : 2.0f) + (other.in ? other.in[0] : 0.5f);
}

// ---- Wrong on purpose ----
extern "C" __global__ void early_return(int* out) {
  if (threadIdx.x >= 20) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
extern "C" __global__ void two_barriers(int* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
    out[0] = 1;
  } else {
    __syncthreads();
    out[1] = 1;
  }
}
extern "C" __global__ void barrier_against_shuffle(int* out) {
  if (threadIdx.x == 3) __syncthreads();
  else out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}
extern "C" __global__ void masks_differ(int* out) {
  out[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u, (int)threadIdx.x, 20);
}
extern "C" __global__ void not_in_mask(int* out) { out[threadIdx.x] = __ballot_sync(0x0000ffffu, 1); }
extern "C" __global__ void reads_idle_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 16);
}
extern "C" __global__ void lane_left(int* out) {
  if (threadIdx.x == 31) return;
  __syncwarp();
  out[threadIdx.x] = 1;
}
extern "C" __global__ void beyond_shared(int* out, int i) {
  __shared__ int values[32];
  values[threadIdx.x + i] = 1;
  __syncthreads();
  out[0] = values[0];
}
extern "C" __global__ void beyond_global(int* out, int i) { out[i] = 1; }
extern "C" __global__ void overflow(int* out, int i) { out[0] = i + 2147483647; }
extern "C" __global__ void cast(int* out, float x) { out[0] = (int)x; }
extern "C" __global__ void misaligned(float* out) { reinterpret_cast<float4*>(out + 1)->x = 1.0f; }
extern "C" __global__ void null_write(int* out) { *out = 1; }
extern "C" __global__ void unset_shared(unsigned* out) {
  __shared__ unsigned values[32];
  out[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = 0;
}
extern "C" __global__ void race(int* out) {
  __shared__ int value;
  if (threadIdx.x == 0) value = 42;
  out[threadIdx.x] = value;
}
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void far_read(int* out, long long i) { out[0] = out[i]; }
__device__ __noinline__ int dig(int* out, int depth) {
  volatile int local[64] = {depth};
  return depth > 0 ? dig(out, depth - 1) + local[depth % 64] : out[0];
}
extern "C" __global__ void stack_overflow(int* out, int depth) { out[0] = dig(out, depth); }
