// Weighted Levenberg-Marquardt, batched: several blocks per problem, a fixed sequence of launches.
//
//   lm_read_*     checks, participants, centroid          1 launch
//   lm_gather_*   centred, normalised FP32 targets        1 launch
//   lm_iterate    the sums of a pass, then the step       iterations + 1 launches
//   lm_finish     pose, covariance, statistics            1 launch
//
// A pass and the step that follows it are one launch: the block of a problem that arrives last adds the blocks' partial
// sums in block order and one of its threads solves. Problems that are done cost a load and a return. Nothing depends
// on the host, so the sequence can be captured in a CUDA graph; nothing depends on the order in which blocks run, so
// equal inputs give equal bits. Grid: B * blocks; the blocks of a problem are neighbours.
#include "lm_input.cuh"

using namespace coop;

constexpr int LM_THREADS = 256;
static_assert(sizeof(LmState) == 1032, "coop_edge/pnp/cuda_lm.py allocates the states");

// What the passes share, [problems] each: gathered targets, sums of each block, blocks that have arrived.
struct LmWork {
    int problems, blocks;  // of a problem
    int points, lines, depths;  // of a problem
    float *gathered_points, *gathered_lines, *gathered_depths;
    double* partials;
    unsigned* arrived;
    LmState* states;
};

struct LmOutputs {
    double *T, *covariance;
    int* status;
    double *initial_cost, *final_cost;
    int* steps;
    double* damping;
    int* stop;
};

template <typename In>
struct LmReadShared {
    In scratch[LM_THREADS];
    double total[32];
    int is_last;
};

// First pass: sums over the block's share of a problem's targets, then, in the block that arrives last, the set-up.
template <typename In>
__device__ inline void lm_read_block(const LmInput<In>& in, const LmWork& work, double damping,
                                     LmReadShared<In>* shared) {
    const int problem = blockIdx.x / work.blocks, block = blockIdx.x % work.blocks;
    const LmTargets<In> points = targets_of(in.points, problem), lines = targets_of(in.lines, problem);
    const LmTargets<In> depths = targets_of(in.depths, problem);
    const double *K = in.K + problem * in.K_stride, *T = in.T_init + 16 * problem;
    In sums[INPUT_SUMS];
#pragma unroll
    for (int i = 0; i < INPUT_SUMS; ++i) sums[i] = In(0);
    const int first = block * blockDim.x + threadIdx.x, stride = work.blocks * blockDim.x;
    for (int i = first; i < points.count; i += stride) accumulate_input(points, i, T, sums, sums + SUM_BAD);
    for (int i = first; i < lines.count; i += stride) accumulate_input(lines, i, T, sums + SUM_GROUP, sums + SUM_BAD);
    for (int i = first; i < depths.count; i += stride)
        accumulate_input(depths, i, T, sums + 2 * SUM_GROUP, sums + SUM_BAD);
    block_sums<INPUT_SUMS>(sums, shared->scratch, shared->total);
    double* partials = work.partials + 32ll * problem * work.blocks;
    const bool last = last_block_sums<INPUT_SUMS>(shared->total, partials, block, work.blocks, work.arrived + problem,
                                                  &shared->is_last);
    if (last && threadIdx.x == 0)
        lm_setup(K, T, prior_of(in.prior, problem), shared->total, damping, work.states + problem);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS) lm_read_f32(LmInput<float> in, LmWork work, double damping) {
    __shared__ LmReadShared<float> shared;
    lm_read_block(in, work, damping, &shared);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS) lm_read_f64(LmInput<double> in, LmWork work, double damping) {
    __shared__ LmReadShared<double> shared;
    lm_read_block(in, work, damping, &shared);
}

template <typename In>
__device__ inline void lm_gather_block(const LmInput<In>& in, const LmWork& work) {
    const int problem = blockIdx.x / work.blocks, block = blockIdx.x % work.blocks;
    const LmState* state = work.states + problem;
    if (!state->active) return;
    const double* T = in.T_init + 16 * problem;
    lm_gather(targets_of(in.points, problem), T, block, work.blocks, state,
              work.gathered_points + 6ll * problem * work.points);
    lm_gather(targets_of(in.lines, problem), T, block, work.blocks, state,
              work.gathered_lines + 8ll * problem * work.lines);
    lm_gather_depths(targets_of(in.depths, problem), T, block, work.blocks, state,
                     work.gathered_depths + 8ll * problem * work.depths);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS) lm_gather_f32(LmInput<float> in, LmWork work) {
    lm_gather_block(in, work);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS) lm_gather_f64(LmInput<double> in, LmWork work) {
    lm_gather_block(in, work);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS, 2) lm_iterate(LmOptions options, LmWork work) {
    __shared__ float scratch[LM_THREADS];
    __shared__ double total[32];
    __shared__ int is_last;
    const int problem = blockIdx.x / work.blocks, block = blockIdx.x % work.blocks;
    LmState* state = work.states + problem;
    // Written at the end of a launch, after every block of the problem has arrived, so all threads read the same.
    if (!state->active) return;
    const LmView<float> view = state->view;
    const float scale = float(options.loss_scale);
    const int first = block * LM_THREADS + threadIdx.x, stride = work.blocks * LM_THREADS;
    float sums[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] = 0.0f;
    const float* p = work.gathered_points + 6ll * problem * work.points;
    for (int i = first, n = work.points; i < n; i += stride) {
        const float w = p[5 * n + i], X[3] = {p[i], p[n + i], p[2 * n + i]}, m[2] = {p[3 * n + i], p[4 * n + i]};
        if (w != 0.0f) accumulate(view, X, m, w, options.loss, scale, sums);
    }
    const float* l = work.gathered_lines + 8ll * problem * work.lines;
    for (int i = first, n = work.lines; i < n; i += stride) {
        const float w = l[5 * n + i], X[3] = {l[i], l[n + i], l[2 * n + i]}, m[2] = {l[3 * n + i], l[4 * n + i]};
        const float normal[2] = {l[6 * n + i], l[7 * n + i]};
        if (w != 0.0f) accumulate_line(view, X, m, normal, w, options.loss, scale, sums);
    }
    const float* d = work.gathered_depths + 8ll * problem * work.depths;
    for (int i = first, n = work.depths; i < n; i += stride) {
        const float w = d[4 * n + i], X[3] = {d[i], d[n + i], d[2 * n + i]};
        const float normal[3] = {d[5 * n + i], d[6 * n + i], d[7 * n + i]};
        if (w != 0.0f) accumulate_depth(view, X, normal, d[3 * n + i], w, options.loss, scale, sums);
    }
    block_sums<32>(sums, scratch, total);
    double* partials = work.partials + 32ll * problem * work.blocks;
    if (last_block_sums<32>(total, partials, block, work.blocks, work.arrived + problem, &is_last) && threadIdx.x == 0)
        lm_advance(state, options, total);
}

// One thread per problem.
extern "C" __global__ void __launch_bounds__(LM_THREADS, 2) lm_finish(LmWork work, LmOutputs out) {
    const int problem = blockIdx.x * LM_THREADS + threadIdx.x;
    if (problem >= work.problems) return;
    const LmState& state = work.states[problem];
    double *T = out.T + 16 * problem, *covariance = out.covariance + 36 * problem;
    int outcome = state.status;
    if (outcome == SOLVED && !lm_covariance(state, covariance)) outcome = DEGENERATE;
    const bool solved = outcome == SOLVED;
    out.status[problem] = outcome;
    out.initial_cost[problem] = solved ? state.initial_cost : not_a_number();
    out.final_cost[problem] = solved ? state.cost : not_a_number();
    out.steps[problem] = solved ? state.steps : 0;
    out.damping[problem] = solved ? state.damping : not_a_number();
    out.stop[problem] = solved ? state.stop : STOP_UNSOLVED;
    if (solved) {
        lm_pose(state, T);
        return;
    }
    for (int i = 0; i < 16; ++i) T[i] = not_a_number();
    for (int i = 0; i < 36; ++i) covariance[i] = not_a_number();
}
