// Weighted Levenberg-Marquardt, batched: several blocks per problem, a fixed sequence of launches.
//
//   lm_read_*     checks, participants, centroid          1 launch
//   lm_gather_*   centred, normalised FP32 points         1 launch
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
static_assert(sizeof(LmState) == 792, "coop_edge/pnp/cuda_lm.py allocates the states");

extern "C" __global__ void __launch_bounds__(LM_THREADS)
lm_read_f32(const float* points_object, const float* points_image, const float* weights, const double* K,
            int K_stride, const double* T_init, const double* T_anchor, const double* prior_centre,
            const double* prior_sigma, int has_prior, int count, int blocks, double damping, double* partials,
            unsigned* arrived, LmState* states) {
    __shared__ float scratch[LM_THREADS];
    __shared__ double total[32];
    __shared__ int is_last;
    const int problem = blockIdx.x / blocks;
    const long long first = (long long)problem * count;
    lm_read(points_object + 3 * first, points_image + 2 * first, weights + first, K + problem * K_stride,
            T_init + 16 * problem, prior_input(T_anchor, prior_centre, prior_sigma, has_prior, problem), count,
            blockIdx.x % blocks, blocks, damping, partials + 32ll * problem * blocks, states + problem,
            arrived + problem, scratch, total, &is_last);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS)
lm_read_f64(const double* points_object, const double* points_image, const double* weights, const double* K,
            int K_stride, const double* T_init, const double* T_anchor, const double* prior_centre,
            const double* prior_sigma, int has_prior, int count, int blocks, double damping, double* partials,
            unsigned* arrived, LmState* states) {
    __shared__ double scratch[LM_THREADS];
    __shared__ double total[32];
    __shared__ int is_last;
    const int problem = blockIdx.x / blocks;
    const long long first = (long long)problem * count;
    lm_read(points_object + 3 * first, points_image + 2 * first, weights + first, K + problem * K_stride,
            T_init + 16 * problem, prior_input(T_anchor, prior_centre, prior_sigma, has_prior, problem), count,
            blockIdx.x % blocks, blocks, damping, partials + 32ll * problem * blocks, states + problem,
            arrived + problem, scratch, total, &is_last);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS)
lm_gather_f32(const float* points_object, const float* points_image, const float* weights, const double* T_init,
              int count, int blocks, const LmState* states, float* gathered) {
    const int problem = blockIdx.x / blocks;
    if (!states[problem].active) return;
    const long long first = (long long)problem * count;
    lm_gather(points_object + 3 * first, points_image + 2 * first, weights + first, T_init + 16 * problem, count,
              blockIdx.x % blocks, blocks, states + problem, gathered + 6 * first);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS)
lm_gather_f64(const double* points_object, const double* points_image, const double* weights, const double* T_init,
              int count, int blocks, const LmState* states, float* gathered) {
    const int problem = blockIdx.x / blocks;
    if (!states[problem].active) return;
    const long long first = (long long)problem * count;
    lm_gather(points_object + 3 * first, points_image + 2 * first, weights + first, T_init + 16 * problem, count,
              blockIdx.x % blocks, blocks, states + problem, gathered + 6 * first);
}

extern "C" __global__ void __launch_bounds__(LM_THREADS, 2)
lm_iterate(const float* gathered, int count, int blocks, int iterations, int loss, double damping, double damping_up,
           double damping_down, double step_tolerance, double cost_tolerance, double loss_scale, double* partials,
           unsigned* arrived, LmState* states) {
    __shared__ float scratch[LM_THREADS];
    __shared__ double total[32];
    __shared__ int is_last;
    const int problem = blockIdx.x / blocks, block = blockIdx.x % blocks;
    LmState* state = states + problem;
    // Written at the end of a launch, after every block of the problem has arrived, so all threads read the same.
    if (!state->active) return;
    const LmView<float> view = state->view;
    const float* points = gathered + 6ll * problem * count;
    float sums[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] = 0.0f;
    for (int i = block * LM_THREADS + threadIdx.x; i < count; i += blocks * LM_THREADS) {
        const float w = points[5 * count + i];
        if (w == 0.0f) continue;
        const float X[3] = {points[i], points[count + i], points[2 * count + i]};
        const float m[2] = {points[3 * count + i], points[4 * count + i]};
        accumulate(view, X, m, w, loss, float(loss_scale), sums);
    }
    block_sums<32>(sums, scratch, total);
    partials += 32ll * problem * blocks;
    if (last_block_sums<32>(total, partials, block, blocks, arrived + problem, &is_last) && threadIdx.x == 0) {
        const LmOptions options = {iterations, loss, damping, damping_up, damping_down, step_tolerance, cost_tolerance,
                                   loss_scale};
        lm_advance(state, options, total);
    }
}

// One thread per problem.
extern "C" __global__ void __launch_bounds__(LM_THREADS, 2)
lm_finish(const LmState* states, int batch, double* T, double* covariance, int* status, double* initial_cost,
          double* final_cost, int* steps, double* damping, int* stop) {
    const int problem = blockIdx.x * LM_THREADS + threadIdx.x;
    if (problem >= batch) return;
    const LmState& state = states[problem];
    int outcome = state.status;
    if (outcome == SOLVED && !lm_covariance(state, covariance + 36 * problem)) outcome = DEGENERATE;
    const bool solved = outcome == SOLVED;
    status[problem] = outcome;
    initial_cost[problem] = solved ? state.initial_cost : not_a_number();
    final_cost[problem] = solved ? state.cost : not_a_number();
    steps[problem] = solved ? state.steps : 0;
    damping[problem] = solved ? state.damping : not_a_number();
    stop[problem] = solved ? state.stop : STOP_UNSOLVED;
    if (solved) {
        lm_pose(state, T + 16 * problem);
        return;
    }
    for (int i = 0; i < 16; ++i) T[16 * problem + i] = not_a_number();
    for (int i = 0; i < 36; ++i) covariance[36 * problem + i] = not_a_number();
}
