// RANSAC of one problem by one block (the algorithm is stated in docs/solvers.md).
//
// Hypotheses are solved a thread each, 128 at a time: four rounds at once, of which those beyond the stop are never
// looked at. That costs no time, since a minimal solver is one long dependent computation, however many lanes run it.
// They are scored a warp per pose, in rounds of 32. A thread per pose would read points by broadcast and need no sums,
// but P3P gives none to four poses per sample, so most lanes would wait for those with four; a warp per pose has only
// real poses to do, reads points coalesced, and can stop as soon as a pose has lost (N = 196 to 1024 is 7 to 32 points
// per lane).
//
// FP32: P3P and EPnP of samples, scores. A score differs from FP64's by about 1e-5 of itself, so two hypotheses closer
// than that, or a point that close to the threshold, may fall the other way. FP64: the stopping rule, the final pose.
#pragma once

#include "epnp_block.cuh"
#include "kabsch.cuh"
#include "ransac_input.cuh"
#include "rng.cuh"

namespace coop {

constexpr int ROUND = 32, MAX_ROOTS = 4, REFINE_ROUNDS = 3;
constexpr float NEAR = 1.5f;  // refinement begins with the points within this many thresholds
constexpr int SCORE_GROUP = 4;  // points per lane between two looks at the running score

enum Minimal { MINIMAL_P3P = 0, MINIMAL_EPNP = 1 };

struct RansacOptions {
    float threshold2;
    int hypotheses, minimal, sample_size, refine, min_inliers, adaptive;
    double log_miss;  // log(1 - confidence)
    unsigned long long seed;
    LmOptions lm;
};

struct RansacShared {
    float poses[RANSAC_THREADS][MAX_ROOTS][12], scores[ROUND][MAX_ROOTS + 1];
    int roots[RANSAC_THREADS];
    bool moved[RANSAC_THREADS];  // whether there is a motion of the sample's measured places
    float best_score, best_pose[12];
    int drawn, stop;
    float scratch[RANSAC_THREADS];
    double total[32];
    EpnpShared epnp;
    LmState lm;
    double R[9], t[3];  // the result, relative to the problem's origin
    float pose[12];     // the same, as points are scored with it
};

// One problem as all steps see it.
struct RansacView {
    const RansacProblem* problem;
    const float* points;  // planes [5][stride]
    const float* depths;  // planes [2][stride], measured depth and its weight, 0 = unknown; null: there is none
    float* motions;       // [RANSAC_THREADS][12], Kabsch's poses of the samples; null without measured depth
    unsigned substream;    // of the samples
    int count, stride;
    PixelScale<float> scale;
};

COOP_HD int points_per_sample(const RansacOptions& options, int n) {
    if (options.minimal == MINIMAL_P3P) return 3;
    return options.sample_size < n ? options.sample_size : n;
}

// The pose of three points, of which all have measured depth, as a motion in space; false if there is none.
__device__ inline bool solve_motion(const RansacView& view, const int* sample, const float* X, const float* u,
                                    float* pose) {
    float Y[9];
    for (int i = 0; i < 3; ++i) {
        if (!(view.depths[view.stride + sample[i]] > 0.0f)) return false;
        const float depth = view.depths[sample[i]];
        Y[3 * i] = depth * u[2 * i];
        Y[3 * i + 1] = depth * u[2 * i + 1];
        Y[3 * i + 2] = depth;
    }
    return kabsch(X, Y, pose);
}

__device__ inline void solve_sample(const RansacView& view, const RansacOptions& options, int hypothesis,
                                    RansacShared* shared) {
    const int m = points_per_sample(options, view.count);
    int sample[MAX_SAMPLE];
    float X[3 * MAX_SAMPLE], u[2 * MAX_SAMPLE];
    draw_sample(options.seed, view.substream, unsigned(hypothesis), view.count, m, sample);
    for (int i = 0; i < m; ++i) {
        for (int k = 0; k < 3; ++k) X[3 * i + k] = view.points[k * view.stride + sample[i]];
        for (int k = 0; k < 2; ++k) u[2 * i + k] = view.points[(3 + k) * view.stride + sample[i]];
    }
    float(*poses)[12] = shared->poses[threadIdx.x];
    shared->moved[threadIdx.x] = false;
    if (options.minimal == MINIMAL_P3P) {
        shared->roots[threadIdx.x] = p3p(X, u, poses[0]);
        if (view.depths) shared->moved[threadIdx.x] = solve_motion(view, sample, X, u, view.motions + 12 * threadIdx.x);
    } else {
        shared->roots[threadIdx.x] = epnp_sample(X, u, m, view.scale, float(MIN_DEPTH), poses[0]);
    }
}

// The pose of a hypothesis' root; the one after the last is the motion of its measured places.
__device__ inline const float* pose_of(const RansacView& view, const RansacShared* shared, int hypothesis, int root) {
    return root < MAX_ROOTS ? shared->poses[hypothesis][root] : view.motions + 12 * hypothesis;
}

__device__ inline bool is_there(const RansacShared* shared, int hypothesis, int root) {
    return root < MAX_ROOTS ? root < shared->roots[hypothesis] : shared->moved[hypothesis];
}

// Squared error of point i under a pose, that of its measured depth included; negative if it is not in front.
// `reprojection` gets that of the reprojection alone.
__device__ inline float point_error(const RansacView& view, const float* pose, int i, float* reprojection) {
    const float X[3] = {view.points[i], view.points[view.stride + i], view.points[2 * view.stride + i]};
    const float error = squared_error(pose, view.scale, X, view.points[3 * view.stride + i],
                                      view.points[4 * view.stride + i], float(MIN_DEPTH));
    *reprojection = error;
    if (!view.depths || error < 0.0f) return error;
    const float off = view.depths[view.stride + i] * ((dot3(pose + 6, X) + pose[11]) - view.depths[i]);
    return error + off * off;
}

// MSAC score of a pose by one warp; a sum that has reached `bound` is returned as it is. All lanes get it.
__device__ inline float warp_score(const RansacView& view, const float* pose, float threshold2, float bound) {
    const int lane = threadIdx.x & 31;
    float score = 0.0f;
    for (int base = 0; base < view.count && score < bound; base += 32 * SCORE_GROUP) {
        float sum = 0.0f;
#pragma unroll
        for (int group = 0; group < SCORE_GROUP; ++group) {
            const int i = base + 32 * group + lane;
            if (i >= view.count) continue;
            float reprojection;
            sum += msac_share(point_error(view, pose, i, &reprojection), threshold2);
        }
        score += warp_sum(sum);
    }
    return score;
}

// Score one round: shared->poses[first ...] of `size` hypotheses; the best pose is replaced by a strictly better one,
// the lower hypothesis and then the lower root among equals. All threads must call.
__device__ inline void score_round(const RansacView& view, float threshold2, int first, int size,
                                   RansacShared* shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const float bound = shared->best_score;  // of lower hypotheses only, so stopping early changes nothing
    const int roots = view.depths ? MAX_ROOTS + 1 : MAX_ROOTS;
    for (int item = warp; item < size * roots; item += RANSAC_WARPS) {
        const int hypothesis = item / roots, root = item % roots;
        if (!is_there(shared, first + hypothesis, root)) continue;
        const float score = warp_score(view, pose_of(view, shared, first + hypothesis, root), threshold2, bound);
        if (lane == 0) shared->scores[hypothesis][root] = score;
    }
    __syncthreads();
    if (warp == 0) {
        float score = float(infinity());
        int place = lane * roots;
        for (int root = 0; lane < size && root < roots; ++root)
            if (is_there(shared, first + lane, root) && shared->scores[lane][root] < score) {
                score = shared->scores[lane][root];
                place = lane * roots + root;
            }
        for (int offset = 16; offset > 0; offset >>= 1) {
            const float other = __shfl_xor_sync(FULL_WARP, score, offset);
            const int at = __shfl_xor_sync(FULL_WARP, place, offset);
            if (other < score || (other == score && at < place)) {
                score = other;
                place = at;
            }
        }
        if (score < bound) {
            if (lane < 12) shared->best_pose[lane] = pose_of(view, shared, first + place / roots, place % roots)[lane];
            if (lane == 0) shared->best_score = score;
        }
    }
    __syncthreads();
}

struct PoseScore {
    double score;
    float inliers, changed, squares;  // changed: inliers that differ from `previous`; squares: reprojection errors'
};

// Score a pose, write its inliers. All threads must call and get the answer.
__device__ __noinline__ PoseScore block_score(const RansacView& view, const float* pose, float threshold2,
                                             const unsigned char* previous, unsigned char* inliers,
                                             RansacShared* shared) {
    float sums[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < view.count; i += RANSAC_THREADS) {
        float reprojection;
        const float error = point_error(view, pose, i, &reprojection);
        const bool inside = error >= 0.0f && error < threshold2;
        sums[0] += inside ? error : 0.0f;
        sums[1] += inside ? 1.0f : 0.0f;
        sums[2] += previous && inside != (previous[i] != 0) ? 1.0f : 0.0f;
        sums[3] += inside ? reprojection : 0.0f;
        inliers[i] = inside;
    }
    block_sums<4>(sums, shared->scratch, shared->total);
    const double* total = shared->total;
    // Outliers are counted, not summed: FP32 would lose small errors beside many squared thresholds.
    const double score = total[0] + double(threshold2) * (double(view.count) - total[1]);
    const PoseScore result = {score, float(total[1]), float(total[2]), float(total[3])};
    __syncthreads();
    return result;
}

// Whether an all-inlier sample has been drawn with the confidence wanted, if k of the n points are inliers.
COOP_HD bool enough_drawn(const RansacOptions& options, int drawn, int k, int n) {
    const int m = points_per_sample(options, n);
    if (!options.adaptive || k < m) return false;
    double p = 1.0;
    for (int i = 0; i < m; ++i) p *= double(k - i) / double(n - i);
    return p >= 1.0 || drawn * log1p(-p) <= options.log_miss;
}

// Draw and score until done: shared->best_score (infinite if there is no pose), best_pose, drawn. All threads.
__device__ inline void search(const RansacView& view, const RansacOptions& options, unsigned char* inliers,
                              RansacShared* shared) {
    if (threadIdx.x == 0) {
        shared->best_score = float(infinity());
        shared->drawn = shared->stop = 0;
    }
    __syncthreads();
    while (!shared->stop) {
        const int start = shared->drawn;
        const int batch = options.hypotheses - start < RANSAC_THREADS ? options.hypotheses - start : RANSAC_THREADS;
        if (threadIdx.x < batch) solve_sample(view, options, start + threadIdx.x, shared);
        __syncthreads();
        for (int first = 0; first < batch && !shared->stop; first += ROUND) {
            const int size = batch - first < ROUND ? batch - first : ROUND;
            score_round(view, options.threshold2, first, size, shared);
            int k = 0;
            if (shared->best_score < float(infinity()))
                k = int(block_score(view, shared->best_pose, options.threshold2, nullptr, inliers, shared).inliers);
            __syncthreads();
            if (threadIdx.x == 0) {
                const int drawn = start + first + size;
                shared->drawn = drawn;
                shared->stop = drawn >= options.hypotheses || enough_drawn(options, drawn, k, view.count);
            }
            __syncthreads();
        }
    }
}

}  // namespace coop
