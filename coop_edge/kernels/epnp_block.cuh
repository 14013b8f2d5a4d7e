// EPnP of any number of points by one block: sums over the points by all threads, the null space by one warp, the
// candidates by one lane each.
//
// FP32 throughout: on the tests' problems the poses reproject within 0.0005 px (90 %) of FP64's, and an FP64
// eigen-decomposition would take most of a problem's time on Orin. The sums are FP32 within a warp, FP64 from there on.
#pragma once

#include "epnp_sample.cuh"
#include "lm_step.cuh"
#include "reduce.cuh"

namespace coop {

struct EpnpShared {
    EpnpFrame<float> frame;
    float A[144], V[144], rotation[6][2], sums[40], null[48];
    float candidates[4][12], pose[12];
    int exists[4], planar, general, found;
    float best;
};

// Points of a problem as planes [5][stride], and which of them to use.
struct PointSet {
    const float* points;
    const unsigned char* used;
    int count, stride;
    __device__ void read(int i, float* X, float* m) const {
        for (int k = 0; k < 3; ++k) X[k] = points[k * stride + i];
        for (int k = 0; k < 2; ++k) m[k] = points[(3 + k) * stride + i];
    }
};

// The two indices of pair `i` in round `round` of a tournament of SIZE players, everyone meeting everyone in SIZE - 1
// rounds.
template <int SIZE>
COOP_HD void tournament(int round, int i, int* p, int* q) {
    const int a = i == 0 ? SIZE - 1 : (round + i) % (SIZE - 1);
    const int b = (round + SIZE - 1 - i) % (SIZE - 1);
    *p = a < b ? a : b;
    *q = a < b ? b : a;
}

// Jacobi eigen-decomposition of the symmetric A [SIZE,SIZE], SIZE even, by one warp: SIZE / 2 disjoint rotations at a
// time. All lanes of the warp must call. A and V are shared; see jacobi_eigen.
template <int SIZE>
__device__ __noinline__ void warp_jacobi(float* A, float* V, float (*rotation)[2]) {
    constexpr int PAIRS = SIZE / 2;
    const int lane = threadIdx.x & 31;
    for (int i = lane; i < SIZE * SIZE; i += 32) V[i] = i % (SIZE + 1) == 0 ? 1.0f : 0.0f;
    __syncwarp();
    for (int sweep = 0; sweep < 12; ++sweep) {
        float off = 0.0f, diagonal = 0.0f;
        for (int i = lane; i < SIZE * SIZE; i += 32) {
            if (i % (SIZE + 1) == 0)
                diagonal += A[i] * A[i];
            else
                off += A[i] * A[i];
        }
        off = warp_sum(off);
        diagonal = warp_sum(diagonal);
        if (!(off > 1e-15f * diagonal)) break;
        for (int round = 0; round < SIZE - 1; ++round) {
            if (lane < PAIRS) {
                int p, q;
                tournament<SIZE>(round, lane, &p, &q);
                jacobi_rotation(A[p * SIZE + p], A[q * SIZE + q], A[p * SIZE + q], &rotation[lane][0],
                                &rotation[lane][1]);
            }
            __syncwarp();
            // A <- G^T A G in blocks of 2 x 2, each read and written by one lane.
            for (int block = lane; block < PAIRS * PAIRS; block += 32) {
                int p, q, r, s;
                tournament<SIZE>(round, block / PAIRS, &p, &q);
                tournament<SIZE>(round, block % PAIRS, &r, &s);
                const float ci = rotation[block / PAIRS][0], si = rotation[block / PAIRS][1];
                const float cj = rotation[block % PAIRS][0], sj = rotation[block % PAIRS][1];
                const float pr = A[p * SIZE + r], ps = A[p * SIZE + s], qr = A[q * SIZE + r], qs = A[q * SIZE + s];
                const float top_r = ci * pr - si * qr, top_s = ci * ps - si * qs;
                const float low_r = si * pr + ci * qr, low_s = si * ps + ci * qs;
                A[p * SIZE + r] = cj * top_r - sj * top_s;
                A[p * SIZE + s] = sj * top_r + cj * top_s;
                A[q * SIZE + r] = cj * low_r - sj * low_s;
                A[q * SIZE + s] = sj * low_r + cj * low_s;
            }
            for (int item = lane; item < PAIRS * SIZE; item += 32) {
                int p, q;
                tournament<SIZE>(round, item % PAIRS, &p, &q);
                const float c = rotation[item % PAIRS][0], s = rotation[item % PAIRS][1];
                float* row = V + item / PAIRS * SIZE;
                const float a = row[p], b = row[q];
                row[p] = c * a - s * b;
                row[q] = s * a + c * b;
            }
            __syncwarp();
        }
    }
}

// Null vectors and candidates from shared->sums; one warp. A 9 x 9 matrix is given a tenth row of zeros:
// it takes part in no rotation and is not selected from.
template <int COUNT>
__device__ inline void warp_candidates(EpnpShared* shared) {
    constexpr int USED = 3 * COUNT, SIZE = USED + (USED & 1);
    const int lane = threadIdx.x & 31;
    for (int i = lane; i < SIZE * SIZE; i += 32) {
        const int row = i / SIZE, column = i % SIZE;
        const bool inside = row < USED && column < USED;
        shared->A[i] = inside ? normal_entry(shared->sums, row, column) : 0.0f;
    }
    __syncwarp();
    warp_jacobi<SIZE>(shared->A, shared->V, shared->rotation);
    if (lane == 0) smallest_vectors<float, SIZE>(shared->A, shared->V, USED, COUNT, shared->null);
    __syncwarp();
    if (lane < 4)
        shared->exists[lane] = lane < COUNT && epnp_candidate(shared->frame, COUNT, shared->null, lane + 1,
                                                              shared->candidates[lane]);
    __syncwarp();
}

// Centroid, then covariance, of the used points; sets frame, planar, general. All threads must call.
__device__ inline void block_frame(const PointSet& set, float* scratch, double* total, EpnpShared* shared) {
    float sums[8], X[3], m[2], centre[3];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < set.count; i += blockDim.x) {
        if (!set.used[i]) continue;
        set.read(i, X, m);
        for (int k = 0; k < 3; ++k) sums[k] += X[k];
        sums[3] += 1.0f;
    }
    block_sums<4>(sums, scratch, total);
    const float n = float(total[3]);
    for (int k = 0; k < 3; ++k) centre[k] = float(total[k] / total[3]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < set.count; i += blockDim.x) {
        if (!set.used[i]) continue;
        set.read(i, X, m);
        for (int k = 0; k < 3; ++k) X[k] -= centre[k];
#pragma unroll
        for (int j = 0; j < 3; ++j)
#pragma unroll
            for (int k = j; k < 3; ++k) sums[upper<3>(j, k)] += X[j] * X[k];
    }
    block_sums<8>(sums, scratch, total);
    if (threadIdx.x == 0) {
        float covariance[6];
        for (int i = 0; i < 6; ++i) covariance[i] = float(total[i]) / n;
        bool planar = false, general = false;
        if (principal_axes(centre, covariance, &shared->frame)) control_point_cases(shared->frame, &planar, &general);
        shared->planar = planar;
        shared->general = general;
    }
    __syncthreads();
}

// Candidates with `count` control points; shared->pose and shared->best are replaced by a better one. All threads.
__device__ __noinline__ void block_candidates(const PointSet& set, int count, const PixelScale<float>& scale,
                                             float* scratch, double* total, EpnpShared* shared) {
    float sums[40], X[3], m[2], alpha[4];
#pragma unroll
    for (int i = 0; i < 40; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < set.count; i += blockDim.x) {
        if (!set.used[i]) continue;
        set.read(i, X, m);
        barycentric(shared->frame, count, X, alpha);
        accumulate_normal(count, alpha, m[0], m[1], sums);
    }
    block_sums<32>(sums, scratch, total);
    if (threadIdx.x < 32) shared->sums[threadIdx.x] = float(total[threadIdx.x]);
    block_sums<8>(sums + 32, scratch, total);
    if (threadIdx.x < 8) shared->sums[32 + threadIdx.x] = float(total[threadIdx.x]);
    __syncthreads();
    if (threadIdx.x < 32) {
        if (count == 3)
            warp_candidates<3>(shared);
        else
            warp_candidates<4>(shared);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = 0.0f;  // 4 errors, 4 numbers of points behind
    for (int i = threadIdx.x; i < set.count; i += blockDim.x) {
        if (!set.used[i]) continue;
        set.read(i, X, m);
#pragma unroll
        for (int N = 0; N < 4; ++N) {
            if (!shared->exists[N]) continue;
            const float error = squared_error(shared->candidates[N], scale, X, m[0], m[1], float(MIN_DEPTH));
            sums[N] += fmax(error, 0.0f);
            sums[4 + N] += error >= 0.0f ? 0.0f : 1.0f;
        }
    }
    block_sums<8>(sums, scratch, total);
    if (threadIdx.x == 0)
        for (int N = 0; N < 4; ++N) {
            if (!shared->exists[N] || total[4 + N] > 0.0 || !(float(total[N]) < shared->best)) continue;
            shared->best = float(total[N]);
            shared->found = 1;
            for (int i = 0; i < 12; ++i) shared->pose[i] = shared->candidates[N][i];
        }
    __syncthreads();
}

// EPnP of the used points, at least 4: shared->found, shared->pose. All threads must call.
__device__ inline void block_epnp(const PointSet& set, const PixelScale<float>& scale, float* scratch, double* total,
                                  EpnpShared* shared) {
    if (threadIdx.x == 0) {
        shared->found = 0;
        shared->best = float(infinity());
    }
    block_frame(set, scratch, total, shared);
    if (shared->planar) block_candidates(set, 3, scale, scratch, total, shared);
    if (shared->general) block_candidates(set, 4, scale, scratch, total, shared);
}

}  // namespace coop
