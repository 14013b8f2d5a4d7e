// Local refinement of RANSAC's best pose on the points that fit it, by the block that found it: EPnP, then
// Levenberg-Marquardt.
#pragma once

#include "ransac.cuh"

namespace coop {

// The best hypothesis as the result so far, made orthonormal in FP64.
__device__ inline void take_pose(const float* pose, RansacShared* shared) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < 9; ++i) shared->R[i] = double(pose[i]);
        for (int i = 0; i < 3; ++i) shared->t[i] = double(pose[9 + i]);
        orthonormalise(shared->R);
    }
    if (threadIdx.x < 12) shared->pose[threadIdx.x] = pose[threadIdx.x];
    __syncthreads();
}

// One pass over the used points: the sums of the normal equations at shared->lm.view. All threads must call.
__device__ inline void inlier_sums(const RansacView& view, const unsigned char* used, RansacShared* shared) {
    const LmView<float> pose = shared->lm.view;
    const double* c = shared->lm.centre;
    const float centre[3] = {float(c[0]), float(c[1]), float(c[2])};
    float sums[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < view.count; i += RANSAC_THREADS) {
        if (!used[i]) continue;
        float X[3], m[2];
        for (int k = 0; k < 3; ++k) X[k] = view.points[k * view.stride + i] - centre[k];
        for (int k = 0; k < 2; ++k) m[k] = view.points[(3 + k) * view.stride + i] - pose.m0[k];
        accumulate(pose, X, m, 1.0f, LOSS_NONE, 1.0f, sums);
        if (!view.depths || !(view.depths[view.stride + i] > 0.0f)) continue;
        const float along[3] = {0.0f, 0.0f, 1.0f};
        accumulate_depth(pose, X, along, view.depths[i], view.depths[view.stride + i], LOSS_NONE, 1.0f, sums);
    }
    block_sums<32>(sums, shared->scratch, shared->total);
}

// Centroid of the used points into shared->lm.centre, an FP32 value so that every pass subtracts the same. All threads.
__device__ inline void inlier_centre(const RansacView& view, const unsigned char* used, RansacShared* shared) {
    float sums[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < view.count; i += RANSAC_THREADS) {
        if (!used[i]) continue;
        for (int k = 0; k < 3; ++k) sums[k] += view.points[k * view.stride + i];
        sums[3] += 1.0f;
    }
    block_sums<4>(sums, shared->scratch, shared->total);
    if (threadIdx.x < 3) shared->lm.centre[threadIdx.x] = double(float(shared->total[threadIdx.x] / shared->total[3]));
    __syncthreads();
}

// Levenberg-Marquardt from (shared->R, t) on the used points; the end is left, uncentred, in shared->lm.R and t and,
// for scoring, in `pose`. All threads must call.
__device__ inline void inlier_lm(const RansacView& view, const RansacOptions& options, const unsigned char* used,
                                 float* pose, RansacShared* shared) {
    LmState* lm = &shared->lm;
    inlier_centre(view, used, shared);
    if (threadIdx.x == 0) {
        double moved[3];
        lm->K = view.problem->K;
        for (int i = 0; i < 9; ++i) lm->R[i] = shared->R[i];
        multiply33_3(lm->R, lm->centre, moved);
        for (int i = 0; i < 3; ++i) lm->t[i] = shared->t[i] + moved[i];
        // FP32 values: m - m0 below then is what the view means by it.
        for (int i = 0; i < 2; ++i) lm->m0[i] = double(float(lm->t[i] / lm->t[2]));
        lm_begin(lm, options.lm.damping);
    }
    __syncthreads();
    while (lm->active) {
        inlier_sums(view, used, shared);
        if (threadIdx.x == 0) lm_advance(lm, options.lm, shared->total);
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double moved[3];
        multiply33_3(lm->R, lm->centre, moved);
        for (int i = 0; i < 3; ++i) lm->t[i] -= moved[i];
        for (int i = 0; i < 9; ++i) pose[i] = float(lm->R[i]);
        for (int i = 0; i < 3; ++i) pose[9 + i] = float(lm->t[i]);
    }
    __syncthreads();
}

// Whether a refined pose is kept: its score is smaller, or, at exact points, as small as FP32 can tell (errors of 1e-4
// px at each point). Then the refined pose is the better one: it minimises, and its pose is FP64.
COOP_HD bool is_better(const PoseScore& trial, const PoseScore& best, int points) {
    return trial.score < best.score + 1e-8 * points;
}

// LM's end becomes the result.
__device__ inline void take_lm(RansacShared* shared) {
    if (threadIdx.x < 9) shared->R[threadIdx.x] = shared->lm.R[threadIdx.x];
    if (threadIdx.x < 3) shared->t[threadIdx.x] = shared->lm.t[threadIdx.x];
    if (threadIdx.x < 12) shared->pose[threadIdx.x] = shared->best_pose[threadIdx.x];
    __syncthreads();
}

// Refine shared->pose, R, t; returns its score and leaves its inliers in `used`. `trial` is scratch of the same size.
// All threads must call.
__device__ inline PoseScore refine(const RansacView& view, const RansacOptions& options, unsigned char* used,
                                   unsigned char* trial, RansacShared* shared) {
    const float threshold2 = options.threshold2, near2 = NEAR * NEAR * threshold2;
    PoseScore best = block_score(view, shared->pose, threshold2, nullptr, used, shared);
    float count = block_score(view, shared->pose, near2, nullptr, used, shared).inliers;
    if (count >= 4.0f) {
        const PointSet set = {view.points, used, view.count, view.stride};
        block_epnp(set, view.scale, shared->scratch, shared->total, &shared->epnp);
        if (shared->epnp.found) {
            const PoseScore score = block_score(view, shared->epnp.pose, threshold2, nullptr, trial, shared);
            if (score.score < best.score) {
                best = score;
                take_pose(shared->epnp.pose, shared);
                count = block_score(view, shared->pose, near2, nullptr, used, shared).inliers;
            }
        }
    }
    for (int attempt = 0; attempt < REFINE_ROUNDS; ++attempt) {
        if (attempt > 0) count = block_score(view, shared->pose, threshold2, nullptr, used, shared).inliers;
        if (count < 3.0f) break;
        inlier_lm(view, options, used, shared->best_pose, shared);
        const PoseScore score = block_score(view, shared->best_pose, threshold2, used, trial, shared);
        if (is_better(score, best, view.count)) {
            best = score;
            take_lm(shared);
            if (score.changed == 0.0f) break;
        } else if (attempt > 0) {
            break;
        }
    }
    return block_score(view, shared->pose, threshold2, nullptr, used, shared);
}

// The caller's arrays for the results, [B].
struct RansacOutputs {
    double* T;
    bool* inliers;
    int *status, *n_inliers, *hypotheses;
    double *score, *rms;
};

__device__ inline void write_pose(const RansacProblem& problem, const RansacShared& shared, double* T) {
    double moved[3];
    multiply33_3(shared.R, problem.origin, moved);
    for (int row = 0; row < 3; ++row) {
        for (int i = 0; i < 3; ++i) T[4 * row + i] = shared.R[3 * row + i];
        T[4 * row + 3] = shared.t[row] - moved[row];
        T[12 + row] = 0.0;
    }
    T[15] = 1.0;
}

// Write a solved problem's pose, inliers and statistics, or its failure. All threads must call; the inliers of the
// caller's invalid points are false.
__device__ inline void write_result(const RansacProblem& problem, int status, int drawn, const PoseScore& result,
                                    const unsigned char* flags, const int* index, int size, int b,
                                    const RansacOutputs& out, const RansacShared& shared) {
    const bool solved = status == SOLVED;
    bool* inliers = out.inliers + (long long)b * size;
    for (int i = threadIdx.x; i < size; i += RANSAC_THREADS) inliers[i] = false;
    __syncthreads();
    for (int i = threadIdx.x; solved && i < problem.count; i += RANSAC_THREADS) inliers[index[i]] = flags[i] != 0;
    if (threadIdx.x != 0) return;
    out.status[b] = status;
    out.n_inliers[b] = solved ? int(result.inliers) : 0;
    out.hypotheses[b] = drawn;
    out.score[b] = solved ? result.score : infinity();
    out.rms[b] = solved ? sqrt(double(result.squares) / double(result.inliers)) : not_a_number();
    double* T = out.T + 16 * b;
    if (solved) {
        write_pose(problem, shared, T);
        return;
    }
    for (int i = 0; i < 16; ++i) T[i] = not_a_number();
}

}  // namespace coop
