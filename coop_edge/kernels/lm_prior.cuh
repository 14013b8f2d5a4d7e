// A Gaussian prior on the pose, as a term of the normal equations (docs/solvers.md). FP64: there is one of it
// per problem, and the pass's FP32 sums are added to it.
#pragma once

#include "lm.cuh"

namespace coop {

// Smallest pivot of a symmetric matrix, scaled to a unit diagonal, that counts as positive definite.
constexpr double SINGULAR_INFORMATION = 1e-12;

struct LmPrior {
    double information[36];  // inverse covariance, 6 x 6
    double R[9];             // the anchor's rotation
    double position[3];      // the object's centre at the anchor, camera axes
    double arm[3];           // the object's centre less the points' centroid, object frame
    int given;
};

// Whether it fixes a pose on its own.
COOP_HD bool is_proper(const LmPrior& prior) {
    double L[36];
    for (int i = 0; i < 36; ++i) L[i] = prior.information[i];
    return prior.given && cholesky<double, 6>(L, SINGULAR_INFORMATION);
}

// The caller's arrays of one prior; null for none.
struct PriorInput {
    const double *T_anchor, *centre, *information;
};

// From the caller's arrays, for points that were centred on `centroid`.
COOP_HD void read_prior(const PriorInput& in, const double* centroid, LmPrior* prior) {
    prior->given = 1;
    for (int i = 0; i < 36; ++i) prior->information[i] = in.information[i];
    for (int row = 0; row < 3; ++row) {
        for (int i = 0; i < 3; ++i) prior->R[3 * row + i] = in.T_anchor[4 * row + i];
        prior->position[row] = in.T_anchor[4 * row + 3] + dot3(in.T_anchor + 4 * row, in.centre);
        prior->arm[row] = in.centre[row] - centroid[row];
    }
}

// xi from the anchor to the pose (R, t) of the centred points, and its derivative B by the step, 6 x 6:
//   e = (R arm + t - position, log(R R_anchor^T)),   B = [I -hat(R arm); 0 J^-1], J the left Jacobian at the latter.
COOP_HD void prior_residual(const LmPrior& prior, const double* R, const double* t, double* e, double* B) {
    double arm[3], Q[9], inverse[9];
    multiply33_3(R, prior.arm, arm);
    for (int i = 0; i < 3; ++i) {
        e[i] = arm[i] + t[i] - prior.position[i];
        for (int j = 0; j < 3; ++j) Q[3 * i + j] = dot3(R + 3 * i, prior.R + 3 * j);
    }
    so3_log(Q, e + 3);
    inverse_left_jacobian(e + 3, inverse);
    for (int i = 0; i < 36; ++i) B[i] = 0.0;
    for (int i = 0; i < 3; ++i) {
        B[7 * i] = 1.0;
        for (int j = 0; j < 3; ++j) B[6 * (3 + i) + 3 + j] = inverse[3 * i + j];
    }
    B[4] = arm[2];
    B[5] = -arm[1];
    B[11] = arm[0];
    B[9] = -arm[2];
    B[15] = arm[1];
    B[16] = -arm[0];
}

// Add the prior's share at the pose (R, t) of the centred points to the sums of a pass.
COOP_HD void add_prior(const LmPrior& prior, const double* R, const double* t, double* sums) {
    double e[6], B[36], LB[36], Le[6];
    prior_residual(prior, R, t, e, B);
#pragma unroll 1
    for (int k = 0; k < 6; ++k) {
        const double* L = prior.information + 6 * k;
        for (int i = 0; i < 6; ++i) {
            LB[6 * k + i] = 0.0;
            for (int m = 0; m < 6; ++m) LB[6 * k + i] += L[m] * B[6 * m + i];
        }
        Le[k] = dot3(L, e) + dot3(L + 3, e + 3);
    }
#pragma unroll 1
    for (int i = 0; i < 6; ++i) {
        for (int j = i; j < 6; ++j)
            for (int k = 0; k < 6; ++k) sums[upper<6>(i, j)] += B[6 * k + i] * LB[6 * k + j];
        for (int k = 0; k < 6; ++k) sums[SUM_G + i] += B[6 * k + i] * Le[k];
        sums[SUM_COST] += Le[i] * e[i];
    }
}

}  // namespace coop
