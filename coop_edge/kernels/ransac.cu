// RANSAC with P3P or EPnP, refined by EPnP and Levenberg-Marquardt, batched: one block per problem, two launches.
//
//   ransac_read_*   checks, compaction of the valid points into FP32 planes
//   ransac_solve    hypotheses, scores, refinement, outputs
#include "ransac_refine.cuh"

using namespace coop;

static_assert(sizeof(RansacProblem) == 72, "coop_edge/pnp/cuda_ransac.py allocates the problems");

extern "C" __global__ void __launch_bounds__(RANSAC_THREADS)
ransac_read_f32(const float* points_object, const float* points_image, const bool* valid, const double* K, int K_stride,
                int size, RansacProblem* problems, float* points, int* index) {
    __shared__ ReadShared shared;
    const int b = blockIdx.x;
    const long long first = (long long)b * size;
    ransac_read(points_object + 3 * first, points_image + 2 * first, valid + first, K + (long long)b * K_stride, size,
                problems + b, points + 5 * first, index + first, &shared);
}

extern "C" __global__ void __launch_bounds__(RANSAC_THREADS)
ransac_read_f64(const double* points_object, const double* points_image, const bool* valid, const double* K,
                int K_stride, int size, RansacProblem* problems, float* points, int* index) {
    __shared__ ReadShared shared;
    const int b = blockIdx.x;
    const long long first = (long long)b * size;
    ransac_read(points_object + 3 * first, points_image + 2 * first, valid + first, K + (long long)b * K_stride, size,
                problems + b, points + 5 * first, index + first, &shared);
}

// `substreams` [B] of the samples, null for the problem's index; `flags` [B][2][size] is scratch. The LM options are
// those of the refinement on inliers, without a robust loss. Three blocks per SM leave 168 registers, enough not to
// spill, and take 42 problems at once on Orin's 16 SMs.
extern "C" __global__ void __launch_bounds__(RANSAC_THREADS, 3)
ransac_solve(const RansacProblem* problems, const float* points, const int* index, const unsigned* substreams,
             int size, unsigned char* flags, float threshold, int hypotheses, int minimal, int sample_size,
             int refinement, int min_inliers, int adaptive, double log_miss, unsigned long long seed, int lm_iterations,
             double lm_damping, double lm_damping_up, double lm_damping_down, double lm_step_tolerance,
             double lm_cost_tolerance, double* T, bool* inliers, int* status, int* n_inliers, int* drawn, double* score,
             double* rms) {
    __shared__ RansacShared shared;
    const int b = blockIdx.x;
    const long long first = (long long)b * size;
    const RansacProblem& problem = problems[b];
    const RansacOptions options = {threshold * threshold, hypotheses, minimal, sample_size, refinement, min_inliers,
                                   adaptive, log_miss, seed,
                                   {lm_iterations, LOSS_NONE, lm_damping, lm_damping_up, lm_damping_down,
                                    lm_step_tolerance, lm_cost_tolerance, 1.0}};
    const unsigned substream = substreams ? substreams[b] : unsigned(b);
    const RansacView view = {&problem, points + 5 * first, substream, problem.count, size,
                             {float(problem.K.fx), float(problem.K.skew), float(problem.K.fy)}};
    unsigned char* own_flags = flags + 2 * first;
    int outcome = problem.status, tried = 0;
    PoseScore result = {0.0, 0.0f, 0.0f, 0.0f};
    if (outcome == SOLVED) {
        search(view, options, own_flags, &shared);
        tried = shared.drawn;
        if (!(shared.best_score < float(infinity()))) outcome = NO_HYPOTHESIS;
    }
    if (outcome == SOLVED) {
        take_pose(shared.best_pose, &shared);
        if (options.refine)
            result = refine(view, options, own_flags, own_flags + size, &shared);
        else
            result = block_score(view, shared.pose, options.threshold2, nullptr, own_flags, &shared);
        if (result.inliers < float(options.min_inliers)) outcome = TOO_FEW_INLIERS;
    }
    const RansacOutputs out = {T, inliers, status, n_inliers, drawn, score, rms};
    write_result(problem, outcome, tried, result, own_flags, index + first, size, b, out, shared);
}
