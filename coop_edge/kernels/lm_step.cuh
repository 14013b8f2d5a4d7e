// Levenberg-Marquardt of one problem as a state machine in FP64: one call per pass over the points. One thread runs it:
// a 6 x 6 Cholesky factorisation per pass, whatever the number of points.
#pragma once

#include "lm_prior.cuh"

namespace coop {

// coop_edge.pnp.base.PnpStatus and LmStop.
enum Status {
    SOLVED = 0,
    TOO_FEW_POINTS = 1,
    NON_FINITE = 2,
    DEGENERATE = 3,
    NO_HYPOTHESIS = 4,
    TOO_FEW_INLIERS = 5,
    BEHIND_CAMERA = 6
};
enum Stop { STOP_ITERATIONS = 0, STOP_STEP = 1, STOP_COST = 2, STOP_DAMPING = 3, STOP_UNSOLVED = 4 };

constexpr double MIN_DAMPING = 1e-12, MAX_DAMPING = 1e12;

// FP32 cannot tell two costs closer than this share apart: the rounding of the residuals, summed (measured: up to 5e-7
// at 100 points). A step whose predicted decrease is smaller is taken on the word of its gradient, which is good to
// more digits than the cost is, and ends the iteration as one below cost_tolerance would.
constexpr double COST_NOISE = 1e-6;

// A pivot of the undamped normal equations, scaled to a unit diagonal, below this is rounding: their sums are FP32.
constexpr double SINGULAR_PIVOT = 1e-6;

struct LmOptions {
    int iterations, loss;
    double damping, damping_up, damping_down, step_tolerance, cost_tolerance, loss_scale;
};

struct LmState {
    Intrinsics<double> K;
    double centre[3], m0[2];                // object centroid, metres; image origin, normalised
    double R[9], t[3];                      // pose of the centred object
    double R_trial[9], t_trial[3];          // pose of the next pass
    double H[21], g[6];                     // normal equations at (R, t)
    double cost, initial_cost, damping;
    double predicted;                       // decrease of the cost by the trial step, to second order
    LmPrior prior;
    LmView<float> view;                     // of the trial pose
    int residuals, passes, steps, status, stop, active;
};

// Begin at (R, t), already set and centred, without a prior; the first pass evaluates that pose.
COOP_HD void lm_begin(LmState* state, double damping) {
    for (int i = 0; i < 9; ++i) state->R_trial[i] = state->R[i];
    for (int i = 0; i < 3; ++i) state->t_trial[i] = state->t[i];
    state->damping = damping;
    state->cost = infinity();
    state->passes = state->steps = 0;
    state->prior.given = 0;
    state->status = SOLVED;
    state->stop = STOP_ITERATIONS;
    state->active = 1;
    make_view(state->R, state->t, state->m0, state->K, &state->view);
}

COOP_HD void lm_end(LmState* state, int stop) {
    state->stop = stop;
    state->active = 0;
}

// A refused step: more damping. False if the damping has reached its bound.
COOP_HD bool lm_refuse(LmState* state, const LmOptions& options) {
    state->damping = fmax(state->damping, MIN_DAMPING) * options.damping_up;
    if (state->damping <= MAX_DAMPING) return true;
    lm_end(state, STOP_DAMPING);
    return false;
}

// Find the next trial pose, or stop. Steps whose factorisation fails count as refused and need no pass.
COOP_HD void lm_propose(LmState* state, const LmOptions& options) {
    while (state->steps < options.iterations) {
        ++state->steps;
        double A[36], xi[6];
        for (int i = 0; i < 6; ++i) {
            for (int j = i; j < 6; ++j) A[6 * j + i] = state->H[upper<6>(i, j)];
            A[7 * i] *= 1.0 + state->damping;
            xi[i] = -state->g[i];
        }
        if (!cholesky<double, 6>(A, 0.0)) {
            if (!lm_refuse(state, options)) return;
            continue;
        }
        cholesky_solve<double, 6>(A, xi);
        const double turn = sqrt(dot3(xi + 3, xi + 3));
        const double move = sqrt(dot3(xi, xi) / dot3(state->t, state->t));
        if (turn < options.step_tolerance && move < options.step_tolerance) {
            lm_end(state, STOP_STEP);
            return;
        }
        // cost + 2 g xi + xi^T H xi, with (H + damping diag H) xi = -g.
        state->predicted = 0.0;
        for (int i = 0; i < 6; ++i)
            state->predicted += xi[i] * (state->damping * state->H[upper<6>(i, i)] * xi[i] - state->g[i]);
        retract(state->R, state->t, xi, state->R_trial, state->t_trial);
        make_view(state->R_trial, state->t_trial, state->m0, state->K, &state->view);
        return;
    }
    lm_end(state, STOP_ITERATIONS);
}

COOP_HD void lm_accept(LmState* state, const double* sums, double cost) {
    for (int i = 0; i < 9; ++i) state->R[i] = state->R_trial[i];
    for (int i = 0; i < 3; ++i) state->t[i] = state->t_trial[i];
    for (int i = 0; i < 21; ++i) state->H[i] = sums[i];
    for (int i = 0; i < 6; ++i) state->g[i] = sums[SUM_G + i];
    state->cost = cost;
}

// Judge the trial pose by its sums, to which the prior is added, and set up the next pass (docs/solvers.md,
// steps 1 to 3).
COOP_HD void lm_advance(LmState* state, const LmOptions& options, double* sums) {
    if (state->prior.given) add_prior(state->prior, state->R_trial, state->t_trial, sums);
    const double cost = sums[SUM_BEHIND] > 0.0 ? infinity() : sums[SUM_COST];
    if (state->passes++ == 0) {
        state->initial_cost = cost;
        lm_accept(state, sums, cost);
        lm_propose(state, options);
        return;
    }
    const double before = state->cost;
    const bool below_noise = state->predicted < COST_NOISE * before && cost < (1.0 + COST_NOISE) * before;
    if (cost < before || below_noise) {
        lm_accept(state, sums, cost);
        state->damping = fmax(state->damping / options.damping_down, MIN_DAMPING);
        if (below_noise || before - cost < options.cost_tolerance * before) {
            lm_end(state, STOP_COST);
            return;
        }
    } else if (!lm_refuse(state, options)) {
        return;
    }
    lm_propose(state, options);
}

// The pose of the object's own origin: t = t' - R c.
COOP_HD void lm_pose(const LmState& state, double* T) {
    double Rc[3];
    multiply33_3(state.R, state.centre, Rc);
    for (int row = 0; row < 3; ++row) {
        for (int i = 0; i < 3; ++i) T[4 * row + i] = state.R[3 * row + i];
        T[4 * row + 3] = state.t[row] - Rc[row];
        T[12 + row] = 0.0;
    }
    T[15] = 1.0;
}

// Covariance of xi = (rho, phi) at the object's origin: A H^-1 A^T v, A = [I hat(R c); 0 I]. v = cost / (residuals - 6),
// NaN for six residuals, which leave nothing to estimate it from; with a prior v = 1. False if H is singular.
COOP_HD bool lm_covariance(const LmState& state, double* covariance) {
    double L[36], scale[6], Rc[3];
    for (int i = 0; i < 6; ++i) {
        const double diagonal = state.H[upper<6>(i, i)];
        if (!(diagonal > 0.0)) return false;
        scale[i] = 1.0 / sqrt(diagonal);
    }
    for (int i = 0; i < 6; ++i)
        for (int j = i; j < 6; ++j) L[6 * j + i] = state.H[upper<6>(i, j)] * scale[i] * scale[j];
    if (!cholesky<double, 6>(L, SINGULAR_PIVOT)) return false;
    double variance = state.residuals > 6 ? state.cost / (state.residuals - 6.0) : not_a_number();
    if (state.prior.given) variance = 1.0;
    multiply33_3(state.R, state.centre, Rc);
    for (int column = 0; column < 6; ++column) {
        // Column of A H^-1 A^T, from the right: x = A^T e, x = H^-1 x, x = A x; (hat(a)^T v = v x a).
        double x[6] = {0, 0, 0, 0, 0, 0}, turn[3];
        x[column] = 1.0;
        cross3(x, Rc, turn);
        for (int i = 0; i < 3; ++i) x[3 + i] += turn[i];
        for (int i = 0; i < 6; ++i) x[i] *= scale[i];
        cholesky_solve<double, 6>(L, x);
        for (int i = 0; i < 6; ++i) x[i] *= scale[i];
        cross3(Rc, x + 3, turn);
        for (int i = 0; i < 3; ++i) x[i] += turn[i];
        for (int i = 0; i < 6; ++i) covariance[6 * i + column] = x[i] * variance;
    }
    return true;
}

}  // namespace coop
