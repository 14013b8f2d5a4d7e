// From the caller's arrays to what the LM passes read: checks, centroid, centred and normalised FP32 points.
//
// `In` is float or double, as the caller's arrays are; arithmetic on points stays in that type. A centroid or image
// origin is subtracted in two parts, high and low, so that float arrays lose nothing to a far-off origin.
#pragma once

#include "lm_step.cuh"
#include "reduce.cuh"

namespace coop {

// Places in the sums of the first pass.
enum InputSum { SUM_WEIGHTED = 0, SUM_FRONT = 1, SUM_BAD = 2, SUM_WEIGHT = 3, SUM_POINT = 4 };

template <typename T>
COOP_HD bool finite(T value) {
    return value - value == T(0);
}

COOP_HD bool all_finite(const double* values, int count) {
    bool good = true;
    for (int i = 0; i < count; ++i) good = good && finite(values[i]);
    return good;
}

// Finite, focal lengths positive, upper triangular with last row 0 0 1. Raising for a wrong one, as the CPU does, would
// mean waiting for the GPU; the problem comes back as NON_FINITE instead.
COOP_HD bool is_camera(const double* K) {
    return all_finite(K, 9) && K[0] > 0.0 && K[4] > 0.0 && K[3] == 0.0 && K[6] == 0.0 && K[7] == 0.0 && K[8] == 1.0;
}

// Finite and a rigid motion, to 1e-4: poses that were float32 pass, a scaled or transposed matrix does not.
COOP_HD bool is_motion(const double* T) {
    if (!all_finite(T, 16) || T[12] != 0.0 || T[13] != 0.0 || T[14] != 0.0 || T[15] != 1.0) return false;
    double normal[3], error = 0.0;
    for (int i = 0; i < 3; ++i)
        for (int j = i; j < 3; ++j) error = fmax(error, fabs(dot3(T + 4 * i, T + 4 * j) - (i == j ? 1.0 : 0.0)));
    cross3(T, T + 4, normal);
    return error <= 1e-4 && dot3(normal, T + 8) > 0.0;
}

COOP_HD Intrinsics<double> read_intrinsics(const double* K) {
    Intrinsics<double> out = {K[0], K[1], K[2], K[4], K[5]};
    return out;
}

// Depth of an object point at the start pose T (row-major 4x4); the one test of who takes part.
template <typename In>
COOP_HD bool in_front(const double* T, const In* X) {
    return In(T[8]) * X[0] + In(T[9]) * X[1] + In(T[10]) * X[2] + In(T[11]) > In(MIN_DEPTH);
}

// Add one correspondence to the first pass's sums. Entries of weight 0 are not looked at.
template <typename In>
COOP_HD void accumulate_input(const In* X, const In* u, In w, const double* T, In* sums) {
    if (w == In(0)) return;
    const bool good = w > In(0) && finite(w) && finite(X[0]) && finite(X[1]) && finite(X[2]) && finite(u[0]) &&
                      finite(u[1]);
    if (!good) {
        sums[SUM_BAD] += In(1);
        return;
    }
    sums[SUM_WEIGHTED] += In(1);
    if (!in_front(T, X)) return;
    sums[SUM_FRONT] += In(1);
    sums[SUM_WEIGHT] += w * w;
    for (int i = 0; i < 3; ++i) sums[SUM_POINT + i] += w * w * X[i];
}

// The caller's arrays of a prior; not looked at unless `given`.
struct PriorInput {
    const double *T_anchor, *centre, *sigma;
    int given;
};

COOP_HD PriorInput prior_input(const double* T_anchor, const double* centre, const double* sigma, int given,
                               int problem) {
    PriorInput out = {T_anchor, centre, sigma, given};
    if (given) {
        out.T_anchor += 16 * problem;
        out.centre += 3 * problem;
        out.sigma += 6 * problem;
    }
    return out;
}

// A rigid motion, a finite centre, positive standard deviations, which may be infinite; or none at all.
COOP_HD bool is_prior(const PriorInput& in) {
    if (!in.given) return true;
    bool good = is_motion(in.T_anchor) && all_finite(in.centre, 3);
    for (int i = 0; i < 6; ++i) good = good && in.sigma[i] > 0.0;
    return good;
}

// The status of a problem from its sums, first that holds. `least`: points that it takes.
COOP_HD int input_status(const double* K, const double* T, const PriorInput& in, const double* sums, double least) {
    if (!is_camera(K) || !is_motion(T) || !is_prior(in) || sums[SUM_BAD] > 0.0) return NON_FINITE;
    if (sums[SUM_WEIGHTED] < least) return TOO_FEW_POINTS;
    if (sums[SUM_FRONT] < 1.0 && sums[SUM_WEIGHTED] > 0.0) return BEHIND_CAMERA;
    if (sums[SUM_FRONT] < least) return TOO_FEW_POINTS;
    return SOLVED;
}

// Set up a problem from its sums.
COOP_HD void lm_setup(const double* K, const double* T, const PriorInput& in, const double* sums, double damping,
                      LmState* state) {
    state->K = read_intrinsics(K);
    state->participants = int(sums[SUM_FRONT]);
    for (int i = 0; i < 3; ++i) {
        const bool pointless = in.given && sums[SUM_FRONT] < 1.0;
        state->centre[i] = pointless ? in.centre[i] : sums[SUM_POINT + i] / sums[SUM_WEIGHT];
    }
    for (int row = 0; row < 3; ++row) {
        for (int i = 0; i < 3; ++i) state->R[3 * row + i] = T[4 * row + i];
        state->t[row] = T[4 * row + 3] + dot3(T + 4 * row, state->centre);
    }
    state->m0[0] = state->t[0] / state->t[2];
    state->m0[1] = state->t[1] / state->t[2];
    lm_begin(state, damping);
    if (in.given) read_prior(in.T_anchor, in.centre, in.sigma, state->centre, &state->prior);
    const int status = input_status(K, T, in, sums, is_proper(state->prior) ? 0.0 : 3.0);
    if (status != SOLVED) {
        lm_end(state, STOP_UNSOLVED);
        state->status = status;
    }
}

// K^-1 u - m0 in FP32, the two coordinates `stride` apart.
template <typename In>
COOP_HD void normalise(const Intrinsics<double>& K, double m0_x, double m0_y, const In* u, float* m, int stride) {
    const double origin_v = K.fy * m0_y + K.cy, origin_u = K.fx * m0_x + K.skew * m0_y + K.cx;
    const In high_u = In(origin_u), high_v = In(origin_v);
    const In y = ((u[1] - high_v) - In(origin_v - double(high_v))) / In(K.fy);
    const In x = ((u[0] - high_u) - In(origin_u - double(high_u)) - In(K.skew) * y) / In(K.fx);
    m[0] = float(x);
    m[stride] = float(y);
}

// One correspondence as the passes read it: X - c, K^-1 u - m0. `X_out` and `m_out` are written `stride` apart.
template <typename In>
COOP_HD void gather_point(const LmState& state, const In* X, const In* u, float* X_out, float* m_out, int stride) {
    for (int i = 0; i < 3; ++i) {
        const In high = In(state.centre[i]);
        X_out[i * stride] = float((X[i] - high) - In(state.centre[i] - double(high)));
    }
    normalise(state.K, state.m0[0], state.m0[1], u, m_out, stride);
}

// First pass: sums over the block's share of a problem's points, then, in the block that arrives last, the set-up.
template <typename In>
__device__ inline void lm_read(const In* points_object, const In* points_image, const In* weights, const double* K,
                               const double* T, const PriorInput& prior, int count, int block, int blocks,
                               double damping, double* partials, LmState* state, unsigned* arrived, In* scratch,
                               double* total, int* is_last) {
    In sums[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = In(0);
    for (int i = block * blockDim.x + threadIdx.x; i < count; i += blocks * blockDim.x)
        accumulate_input(points_object + 3 * i, points_image + 2 * i, weights[i], T, sums);
    block_sums<8>(sums, scratch, total);
    if (last_block_sums<8>(total, partials, block, blocks, arrived, is_last) && threadIdx.x == 0)
        lm_setup(K, T, prior, total, damping, state);
}

// Second pass: the block's share of the points, gathered. Weight 0 marks those that take no part.
template <typename In>
__device__ inline void lm_gather(const In* points_object, const In* points_image, const In* weights, const double* T,
                                 int count, int block, int blocks, const LmState* state, float* gathered) {
    for (int i = block * blockDim.x + threadIdx.x; i < count; i += blocks * blockDim.x) {
        const bool used = weights[i] > In(0) && in_front(T, points_object + 3 * i);
        gathered[5 * count + i] = used ? float(weights[i]) : 0.0f;
        if (used)
            gather_point(*state, points_object + 3 * i, points_image + 2 * i, gathered + i, gathered + 3 * count + i,
                         count);
    }
}

}  // namespace coop
