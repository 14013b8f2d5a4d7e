// RANSAC with P3P or EPnP, refined by EPnP and Levenberg-Marquardt, batched: one block per problem, two launches.
//
//   ransac_read_*   checks, compaction of the valid points into FP32 planes
//   ransac_solve    hypotheses, scores, refinement, outputs
#include "ransac_refine.cuh"

using namespace coop;

static_assert(sizeof(RansacProblem) == 72, "coop_edge/pnp/cuda_ransac.py allocates the problems");

// Scratch of B problems, in the order of valid points: FP32 planes [planes][size] and place in the caller's arrays;
// flags are [2][size]. With measured depth there are 7 planes, else 5, and `motions` [RANSAC_THREADS][12], else null.
// `substreams` [B] of the samples, null for the problem's index.
struct RansacWork {
    int size, planes;
    RansacProblem* problems;
    float *points, *motions;
    int* index;
    unsigned char* flags;
    const unsigned* substreams;
};

template <typename In>
__device__ inline void ransac_read_block(RansacInput<In> in, const RansacWork& work, ReadShared* shared) {
    const int b = blockIdx.x;
    const long long first = (long long)b * work.size;
    in.points_object += 3 * first;
    in.points_image += 2 * first;
    in.valid += first;
    if (in.depth) {
        in.depth += first;
        in.weights += first;
    }
    in.K += (long long)b * in.K_stride;
    ransac_read(in, work.size, work.problems + b, work.points + work.planes * first, work.index + first, shared);
}

extern "C" __global__ void __launch_bounds__(RANSAC_THREADS) ransac_read_f32(RansacInput<float> in, RansacWork work) {
    __shared__ ReadShared shared;
    ransac_read_block(in, work, &shared);
}

extern "C" __global__ void __launch_bounds__(RANSAC_THREADS) ransac_read_f64(RansacInput<double> in, RansacWork work) {
    __shared__ ReadShared shared;
    ransac_read_block(in, work, &shared);
}

// Three blocks per SM leave 168 registers, enough not to spill, and take 42 problems at once on Orin's 16 SMs.
extern "C" __global__ void __launch_bounds__(RANSAC_THREADS, 3)
ransac_solve(RansacOptions options, RansacWork work, RansacOutputs out) {
    __shared__ RansacShared shared;
    const int b = blockIdx.x, size = work.size;
    const long long first = (long long)b * size;
    const RansacProblem& problem = work.problems[b];
    const unsigned substream = work.substreams ? work.substreams[b] : unsigned(b);
    float* points = work.points + work.planes * first;
    const RansacView view = {&problem, points, work.motions ? points + 5 * size : nullptr,
                             work.motions ? work.motions + 12 * RANSAC_THREADS * (long long)b : nullptr,
                             substream, problem.count, size,
                             {float(problem.K.fx), float(problem.K.skew), float(problem.K.fy)}};
    unsigned char* flags = work.flags + 2 * first;
    int outcome = problem.status, tried = 0;
    PoseScore result = {0.0, 0.0f, 0.0f, 0.0f};
    if (outcome == SOLVED) {
        search(view, options, flags, &shared);
        tried = shared.drawn;
        if (!(shared.best_score < float(infinity()))) outcome = NO_HYPOTHESIS;
    }
    if (outcome == SOLVED) {
        take_pose(shared.best_pose, &shared);
        if (options.refine)
            result = refine(view, options, flags, flags + size, &shared);
        else
            result = block_score(view, shared.pose, options.threshold2, nullptr, flags, &shared);
        if (result.inliers < float(options.min_inliers)) outcome = TOO_FEW_INLIERS;
    }
    write_result(problem, outcome, tried, result, flags, work.index + first, size, b, out, shared);
}
