// Deterministic sums over the threads of a block and over the blocks of a problem: fixed trees, no float atomics.
#pragma once

#include "linalg.cuh"

namespace coop {

constexpr unsigned FULL_WARP = 0xffffffffu;

// Sum 32 values over a warp at once: lane l returns the sum of v[l]. Each step halves the number of values and the
// number of lanes that hold them, which takes 31 shuffles where 32 separate trees would take 160. v is destroyed.
template <typename T>
__device__ inline T warp_sum_32(T* v) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const bool upper_half = (lane & offset) != 0;
#pragma unroll
        for (int i = 0; i < offset; ++i) {
            const T give = upper_half ? v[i] : v[i + offset];
            const T keep = upper_half ? v[i + offset] : v[i];
            v[i] = keep + __shfl_xor_sync(FULL_WARP, give, offset);
        }
    }
    return v[0];
}

// One value summed over a warp; every lane returns the sum.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(FULL_WARP, value, offset);
    return value;
}

// Sum v[0..31] over the block into `total`, in double from the warps on. `scratch` holds 32 values per warp. Both are
// shared memory; all threads must call, and all see `total` on return.
template <typename T>
__device__ inline void block_sum_32(T* v, T* scratch, double* total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    scratch[32 * warp + lane] = warp_sum_32(v);
    __syncthreads();
    if (warp == 0) {
        double sum = 0.0;
        for (int w = 0; w < warps; ++w) sum += double(scratch[32 * w + lane]);
        total[lane] = sum;
    }
    __syncthreads();
}

// Combine the blocks of one problem. Every block passes its 32 totals; the block that arrives last returns true with
// the sums over all blocks in `total`, added in block order whichever block that is. `partials` holds 32 doubles per
// block, `arrived` starts at 0 and is left at 0. Shared: `total`, `is_last`. All threads must call.
__device__ inline bool last_block_sum_32(double* total, double* partials, int block, int blocks, unsigned* arrived,
                                         int* is_last) {
    if (threadIdx.x < 32) {
        partials[32 * block + threadIdx.x] = total[threadIdx.x];
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
    if (threadIdx.x < 32) {
        const volatile double* others = partials;  // written by other blocks during this launch: not through L1
        double sum = 0.0;
        for (int b = 0; b < blocks; ++b) sum += others[32 * b + threadIdx.x];
        total[threadIdx.x] = sum;
    }
    __syncthreads();
    return true;
}

}  // namespace coop
