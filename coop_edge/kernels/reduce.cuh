// Deterministic sums over the threads of a block and over the blocks of a problem: fixed trees, no float atomics.
#pragma once

#include "linalg.cuh"

namespace coop {

constexpr unsigned FULL_WARP = 0xffffffffu;

// Sum N values (a power of two, at most 32) over a warp at once: lane l returns the sum of v[l / (32 / N)]. Each step
// halves the number of values and the number of lanes that hold them; 32 values take 31 shuffles, where 32 separate
// trees would take 160. v is destroyed.
template <int N, typename T>
__device__ inline T warp_sums(T* v) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int count = N; count > 1; count /= 2) {
        const int offset = 16 * count / N;
        const bool upper_half = (lane & offset) != 0;
#pragma unroll
        for (int i = 0; i < count / 2; ++i) {
            const T give = upper_half ? v[i] : v[i + count / 2];
            const T keep = upper_half ? v[i + count / 2] : v[i];
            v[i] = keep + __shfl_xor_sync(FULL_WARP, give, offset);
        }
    }
#pragma unroll
    for (int offset = 16 / N; offset > 0; offset /= 2) v[0] += __shfl_xor_sync(FULL_WARP, v[0], offset);
    return v[0];
}

// One value summed over a warp; every lane returns the sum.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(FULL_WARP, value, offset);
    return value;
}

// Sum v[0..N-1] over the block into `total`, in double from the warps on. `scratch` holds N values per warp. Both are
// shared memory; all threads must call, and all see `total` on return.
template <int N, typename T>
__device__ inline void block_sums(T* v, T* scratch, double* total) {
    constexpr int LANES = 32 / N;  // that hold the same sum
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const T sum = warp_sums<N>(v);
    if (lane % LANES == 0) scratch[N * warp + lane / LANES] = sum;
    __syncthreads();
    if (threadIdx.x < N) {
        double all = 0.0;
        for (int w = 0; w < warps; ++w) all += double(scratch[N * w + threadIdx.x]);
        total[threadIdx.x] = all;
    }
    __syncthreads();
}

// Combine the blocks of one problem. Every block passes its N totals; the block that arrives last returns true with
// the sums over all blocks in `total`, added in block order whichever block that is. `partials` holds N doubles per
// block, `arrived` starts at 0 and is left at 0. Shared: `total`, `is_last`. All threads must call.
template <int N>
__device__ inline bool last_block_sums(double* total, double* partials, int block, int blocks, unsigned* arrived,
                                       int* is_last) {
    if (threadIdx.x < N) {
        partials[N * block + threadIdx.x] = total[threadIdx.x];
        __threadfence();  // the partials are visible before the arrival is
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned before = atomicAdd(arrived, 1u);
        *is_last = before == unsigned(blocks - 1);
        if (*is_last) *arrived = 0u;
        __threadfence();
    }
    __syncthreads();
    if (!*is_last) return false;
    if (threadIdx.x < N) {
        const volatile double* others = partials;  // written by other blocks during this launch: not through L1
        double sum = 0.0;
        for (int b = 0; b < blocks; ++b) sum += others[N * b + threadIdx.x];
        total[threadIdx.x] = sum;
    }
    __syncthreads();
    return true;
}

}  // namespace coop
