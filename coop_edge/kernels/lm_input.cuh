// From the caller's arrays to what the LM passes read: checks, centroid, centred and normalised FP32 points, lines and depths.
//
// `In` is float or double, as the caller's arrays are; arithmetic on points stays in that type. A centroid or image
// origin is subtracted in two parts, high and low, so that float arrays lose nothing to a far-off origin.
#pragma once

#include "lm_step.cuh"
#include "reduce.cuh"

namespace coop {

// Points, lines or depths of all problems, [B][count]; `normals` is null for points, `pixels` are the places of depths.
// `axes` is the number of entries of a pixel or place, and of a normal.
template <typename In>
struct LmTargets {
    const In *points, *pixels, *normals, *weights;
    int count, axes;
};

// The caller's arrays. K_stride: 0 if all problems share one K, else 9.
template <typename In>
struct LmInput {
    LmTargets<In> points, lines, depths;
    const double *K, *T_init;
    int K_stride;
    PriorInput prior;
};

// Places in the sums of the first pass: groups of six for points, lines and depths, then what is wrong.
enum InputSum { SUM_WEIGHTED = 0, SUM_FRONT = 1, SUM_WEIGHT = 2, SUM_PLACE = 3, SUM_GROUP = 6, SUM_BAD = 18 };
constexpr int INPUT_SUMS = 32;

constexpr double LEAST_RESIDUALS = 6.0;  // that a pose takes; a point has two, a line or a depth one

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

// The arrays of one problem.
template <typename In>
COOP_HD LmTargets<In> targets_of(LmTargets<In> all, int problem) {
    const long long first = (long long)problem * all.count;
    all.points += 3 * first;
    all.pixels += all.axes * first;
    all.weights += first;
    if (all.normals) all.normals += all.axes * first;
    return all;
}

COOP_HD PriorInput prior_of(PriorInput all, int problem) {
    if (all.T_anchor) {
        all.T_anchor += 16 * problem;
        all.centre += 3 * problem;
        all.information += 36 * problem;
    }
    return all;
}

// Add target i to its group of the first pass's sums. Entries of weight 0 are not looked at.
template <typename In>
COOP_HD void accumulate_input(const LmTargets<In>& in, int i, const double* T, In* group, In* bad) {
    const In w = in.weights[i];
    if (w == In(0)) return;
    const In *X = in.points + 3 * i, *u = in.pixels + in.axes * i;
    bool good = w > In(0) && finite(w) && finite(X[0]) && finite(X[1]) && finite(X[2]);
    for (int k = 0; k < in.axes; ++k)
        good = good && finite(u[k]) && (!in.normals || finite(in.normals[in.axes * i + k]));
    if (!good) {
        *bad += In(1);
        return;
    }
    group[SUM_WEIGHTED] += In(1);
    if (!in_front(T, X)) return;
    group[SUM_FRONT] += In(1);
    group[SUM_WEIGHT] += w * w;
    for (int k = 0; k < 3; ++k) group[SUM_PLACE + k] += w * w * X[k];
}

// A rigid motion, a finite centre, a symmetric matrix whose diagonal bounds the rest; or none at all.
COOP_HD bool is_prior(const PriorInput& in) {
    if (!in.T_anchor) return true;
    if (!is_motion(in.T_anchor) || !all_finite(in.centre, 3) || !all_finite(in.information, 36)) return false;
    for (int i = 0; i < 6; ++i) {
        const double* row = in.information + 6 * i;
        if (row[i] < 0.0) return false;
        for (int j = 0; j < 6; ++j) {
            const double bound = sqrt(row[i] * fmax(in.information[7 * j], 0.0)) * (1.0 + 1e-6);
            if (fabs(row[j]) > bound || fabs(row[j] - in.information[6 * j + i]) > 1e-6 * bound) return false;
        }
    }
    return true;
}

// The status of a problem from its sums, first that holds. `least`: residuals that it takes.
COOP_HD int input_status(const double* K, const double* T, const PriorInput& in, const double* sums, double least) {
    const double *lines = sums + SUM_GROUP, *depths = lines + SUM_GROUP;
    const double weighted = 2.0 * sums[SUM_WEIGHTED] + lines[SUM_WEIGHTED] + depths[SUM_WEIGHTED];
    const double seen = 2.0 * sums[SUM_FRONT] + lines[SUM_FRONT] + depths[SUM_FRONT];
    if (!is_camera(K) || !is_motion(T) || !is_prior(in) || sums[SUM_BAD] > 0.0) return NON_FINITE;
    if (weighted < least) return TOO_FEW_POINTS;
    if (seen < 1.0 && weighted > 0.0) return BEHIND_CAMERA;
    if (seen < least) return TOO_FEW_POINTS;
    return SOLVED;
}

// Set up a problem from its sums. Its centre is the points' centroid; the lines', where there are no points, and the
// depths', where there are no lines either.
COOP_HD void lm_setup(const double* K, const double* T, const PriorInput& in, const double* sums, double damping,
                      LmState* state) {
    const double *lines = sums + SUM_GROUP, *depths = lines + SUM_GROUP;
    const double* group = sums[SUM_FRONT] > 0.0 ? sums : lines[SUM_FRONT] > 0.0 ? lines : depths;
    state->K = read_intrinsics(K);
    state->residuals = int(2.0 * sums[SUM_FRONT] + lines[SUM_FRONT] + depths[SUM_FRONT]);
    for (int i = 0; i < 3; ++i) {
        const bool nothing = in.T_anchor && group[SUM_FRONT] < 1.0;
        state->centre[i] = nothing ? in.centre[i] : group[SUM_PLACE + i] / group[SUM_WEIGHT];
    }
    for (int row = 0; row < 3; ++row) {
        for (int i = 0; i < 3; ++i) state->R[3 * row + i] = T[4 * row + i];
        state->t[row] = T[4 * row + 3] + dot3(T + 4 * row, state->centre);
    }
    state->m0[0] = state->t[0] / state->t[2];
    state->m0[1] = state->t[1] / state->t[2];
    lm_begin(state, damping);
    if (in.T_anchor) read_prior(in, state->centre, &state->prior);
    const int status = input_status(K, T, in, sums, is_proper(state->prior) ? 0.0 : LEAST_RESIDUALS);
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

// Second pass: the block's share of one kind of targets, gathered into planes [6][count] (X, m, w), and [8][count] with
// the normals of lines. Weight 0 marks those that take no part.
template <typename In>
__device__ inline void lm_gather(const LmTargets<In>& in, const double* T, int block, int blocks,
                                 const LmState* state, float* out) {
    for (int i = block * blockDim.x + threadIdx.x; i < in.count; i += blocks * blockDim.x) {
        const bool used = in.weights[i] > In(0) && in_front(T, in.points + 3 * i);
        out[5 * in.count + i] = used ? float(in.weights[i]) : 0.0f;
        if (!used) continue;
        gather_point(*state, in.points + 3 * i, in.pixels + 2 * i, out + i, out + 3 * in.count + i, in.count);
        for (int k = 0; in.normals && k < 2; ++k) out[(6 + k) * in.count + i] = float(in.normals[2 * i + k]);
    }
}

// The same for depths, into planes [8][count]: X, normal . place, w, normal.
template <typename In>
__device__ inline void lm_gather_depths(const LmTargets<In>& in, const double* T, int block, int blocks,
                                        const LmState* state, float* out) {
    for (int i = block * blockDim.x + threadIdx.x; i < in.count; i += blocks * blockDim.x) {
        const bool used = in.weights[i] > In(0) && in_front(T, in.points + 3 * i);
        out[4 * in.count + i] = used ? float(in.weights[i]) : 0.0f;
        if (!used) continue;
        const In *X = in.points + 3 * i, *place = in.pixels + 3 * i, *normal = in.normals + 3 * i;
        double offset = 0.0;
        for (int k = 0; k < 3; ++k) {
            const In high = In(state->centre[k]);
            out[k * in.count + i] = float((X[k] - high) - In(state->centre[k] - double(high)));
            out[(5 + k) * in.count + i] = float(normal[k]);
            offset += double(normal[k]) * double(place[k]);
        }
        out[3 * in.count + i] = float(offset);
    }
}

}  // namespace coop
