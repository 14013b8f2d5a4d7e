// EPnP (Lepetit, Moreno-Noguer, Fua: EPnP, IJCV 2009) in the variant of docs/solvers.md: the parts that one
// thread computes. `T` is the precision; see ransac.cuh for which is used where.
//
// `count` control points: 4, or 3 for points on a plane. Local coordinates are uncorrelated with variance 1, so that
// absolute orientation needs the control points alone.
#pragma once

#include "se3.cuh"

namespace coop {

constexpr double PLANAR = 1e-6;   // ratio of the two smaller variances below which only 3 control points are tried
constexpr double GENERAL = 1e-2;  // above which only 4 are
constexpr int BETA_STEPS = 10;

// Centroid, principal axes (rows, largest variance first, largest component positive) and variances of the points.
template <typename T>
struct EpnpFrame {
    T centre[3], axes[9], variances[3];
};

// From the centroid and the upper triangle of the covariance. False if the points lie on a line.
template <typename T>
COOP_HD bool principal_axes(const T* centre, const T* covariance, EpnpFrame<T>* frame) {
    T A[9], V[9];
    for (int i = 0; i < 3; ++i) {
        frame->centre[i] = centre[i];
        for (int j = 0; j < 3; ++j) A[3 * i + j] = covariance[i < j ? upper<3>(i, j) : upper<3>(j, i)];
    }
    jacobi_eigen<T, 3>(A, V, 12);
    bool taken[3] = {false, false, false};
    for (int a = 0; a < 3; ++a) {
        int best = -1;
        for (int i = 0; i < 3; ++i)
            if (!taken[i] && (best < 0 || A[4 * i] > A[4 * best])) best = i;
        taken[best] = true;
        frame->variances[a] = fmax(A[4 * best], T(0));
        int largest = 0;
        for (int k = 1; k < 3; ++k)
            if (fabs(V[3 * k + best]) > fabs(V[3 * largest + best])) largest = k;
        const T sign = V[3 * largest + best] > T(0) ? T(1) : T(-1);
        for (int k = 0; k < 3; ++k) frame->axes[3 * a + k] = sign * V[3 * k + best];
    }
    return frame->variances[1] > T(0);
}

// Barycentric coordinates of X with respect to the control points.
template <typename T>
COOP_HD void barycentric(const EpnpFrame<T>& frame, int count, const T* X, T* alpha) {
    const T d[3] = {X[0] - frame.centre[0], X[1] - frame.centre[1], X[2] - frame.centre[2]};
    alpha[0] = T(1);
    for (int a = 0; a < count - 1; ++a) {
        const T variance = frame.variances[a];
        alpha[a + 1] = variance > T(0) ? dot3(frame.axes + 3 * a, d) / sqrt(variance) : T(0);
        alpha[0] -= alpha[a + 1];
    }
}

// M^T M of a point is made of alpha_j alpha_k (1, x, y, x^2 + y^2): 4 sums for each of the 10 pairs j <= k, 40 in all
// where the matrix has 78 entries.
template <typename T>
COOP_HD void accumulate_normal(int count, const T* alpha, T x, T y, T* sums) {
    const T r = x * x + y * y;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = j; k < 4; ++k) {
            if (k >= count) continue;
            const T a = alpha[j] * alpha[k];
            T* pair = sums + 4 * upper<4>(j, k);
            pair[0] += a;
            pair[1] += a * x;
            pair[2] += a * y;
            pair[3] += a * r;
        }
}

// Entry (row, column) of M^T M from those sums.
template <typename T>
COOP_HD T normal_entry(const T* sums, int row, int column) {
    const int j = row / 3, k = column / 3, a = row % 3, b = column % 3;
    const T* pair = sums + 4 * (j < k ? upper<4>(j, k) : upper<4>(k, j));
    if (a == b) return a == 2 ? pair[3] : pair[0];
    if (a != 2 && b != 2) return T(0);
    return -pair[1 + (a < b ? a : b)];
}

// The equations for the betas: beta^T gram_p beta = goal_p, the squared distance of pair p of control points.
template <typename T>
struct BetaEquations {
    int count, pairs;
    T gram[6][10], goal[6];
    COOP_HD T at(int p, int v, int w) const { return gram[p][v < w ? upper<4>(v, w) : upper<4>(w, v)]; }
};

// null [count][3 count]: null vectors, smallest eigenvalue first, as control points.
template <typename T>
COOP_HD void make_equations(const EpnpFrame<T>& frame, int count, const T* null, BetaEquations<T>* equations) {
    equations->count = count;
    int p = 0;
    for (int i = 0; i < count; ++i)
        for (int j = i + 1; j < count; ++j, ++p) {
            equations->goal[p] = frame.variances[j - 1] + (i > 0 ? frame.variances[i - 1] : T(0));
            for (int v = 0; v < count; ++v)
                for (int w = v; w < count; ++w) {
                    T sum = T(0);
                    for (int k = 0; k < 3; ++k)
                        sum += (null[3 * count * v + 3 * i + k] - null[3 * count * v + 3 * j + k]) *
                               (null[3 * count * w + 3 * i + k] - null[3 * count * w + 3 * j + k]);
                    equations->gram[p][upper<4>(v, w)] = sum;
                }
        }
    equations->pairs = p;
}

// Betas of the first N null vectors: N = 1 closed form, otherwise products of betas by least squares; with as many
// vectors as control points, those with beta_0 alone. False if the system is singular.
template <typename T>
COOP_HD bool start_betas(const BetaEquations<T>& equations, int N, T* beta) {
    for (int v = 0; v < 4; ++v) beta[v] = T(0);
    if (N == 1) {
        T above = T(0), below = T(0);
        for (int p = 0; p < equations.pairs; ++p) {
            const T square = fmax(equations.at(p, 0, 0), T(0));
            above += sqrt(square * equations.goal[p]);
            below += square;
        }
        beta[0] = above / below;
        return below > T(0);
    }
    const bool first_only = N == equations.count;
    T A[36], b[6], x[6];
    int columns = 0;
    for (int p = 0; p < equations.pairs; ++p) {
        columns = 0;
        for (int v = 0; v < (first_only ? 1 : N); ++v)
            for (int w = v; w < N; ++w) A[6 * p + columns++] = (v == w ? T(1) : T(2)) * equations.at(p, v, w);
        b[p] = equations.goal[p];
    }
    if (!least_squares<T, 6, 6>(A, b, equations.pairs, columns, x)) return false;
    // The product beta_v beta_w stands at place(v, w) of x.
    int lead = 0;
    if (!first_only)
        for (int v = 1; v < N; ++v)
            if (fabs(x[v * N - v * (v - 1) / 2]) > fabs(x[lead * N - lead * (lead - 1) / 2])) lead = v;
    beta[lead] = sqrt(fabs(x[lead * N - lead * (lead - 1) / 2]));
    if (!(beta[lead] > T(0))) return false;
    for (int v = 0; v < N; ++v) {
        if (v == lead) continue;
        const int low = v < lead ? v : lead, high = v < lead ? lead : v;
        beta[v] = x[low * N - low * (low - 1) / 2 + (high - low)] / beta[lead];
    }
    return true;
}

// Gauss-Newton on sum_p (beta^T gram_p beta - goal_p)^2 over all betas.
template <typename T>
COOP_HD void refine_betas(const BetaEquations<T>& equations, T* beta) {
#pragma unroll 1
    for (int step = 0; step < BETA_STEPS; ++step) {
        T J[24], r[6], change[4];
        for (int p = 0; p < equations.pairs; ++p) {
            r[p] = equations.goal[p];
            for (int v = 0; v < equations.count; ++v) {
                T sum = T(0);
                for (int w = 0; w < equations.count; ++w) sum += equations.at(p, v, w) * beta[w];
                J[4 * p + v] = T(2) * sum;
                r[p] -= beta[v] * sum;
            }
        }
        if (!least_squares<T, 6, 4>(J, r, equations.pairs, equations.count, change)) return;
        for (int v = 0; v < equations.count; ++v) beta[v] += change[v];
    }
}

// The rotation that maximises trace(R^T S): absolute orientation by the quaternion (Horn, JOSA A 1987), which cannot
// give a reflection and needs no special case for coplanar points.
template <typename T>
COOP_HD void rotation_from_correlation(const T* S, T* R) {
    T N[16], V[16];
    N[0] = S[0] + S[4] + S[8];
    N[5] = S[0] - S[4] - S[8];
    N[10] = -S[0] + S[4] - S[8];
    N[15] = -S[0] - S[4] + S[8];
    N[1] = N[4] = S[7] - S[5];
    N[2] = N[8] = S[2] - S[6];
    N[3] = N[12] = S[3] - S[1];
    N[6] = N[9] = S[1] + S[3];
    N[7] = N[13] = S[2] + S[6];
    N[11] = N[14] = S[5] + S[7];
    jacobi_eigen<T, 4>(N, V, 12);
    int best = 0;
    for (int i = 1; i < 4; ++i)
        if (N[5 * i] > N[5 * best]) best = i;
    T q[4], norm = T(0);
    for (int i = 0; i < 4; ++i) {
        q[i] = V[4 * i + best];
        norm += q[i] * q[i];
    }
    for (int i = 0; i < 4; ++i) q[i] /= sqrt(norm);
    quaternion_to_matrix(q, R);
}

// The candidate pose (R row-major, then t) that starts from N null vectors. False if it does not exist.
template <typename T>
COOP_HD_CALL bool epnp_candidate(const EpnpFrame<T>& frame, int count, const T* null, int N, T* pose) {
    BetaEquations<T> equations;
    make_equations(frame, count, null, &equations);
    T beta[4];
    if (!start_betas(equations, N, beta)) return false;
    refine_betas(equations, beta);
    T control[12];
    for (int i = 0; i < 3 * count; ++i) {
        control[i] = T(0);
        for (int v = 0; v < count; ++v) control[i] += beta[v] * null[3 * count * v + i];
    }
    const T sign = control[2] > T(0) ? T(1) : T(-1);  // the first control point is the centroid: it comes in front
    T S[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int c = 1; c < count; ++c)
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j)
                S[3 * i + j] += (control[3 * c + i] - control[i]) * sign * sqrt(frame.variances[c - 1]) *
                                frame.axes[3 * (c - 1) + j];
    rotation_from_correlation(S, pose);
    for (int i = 0; i < 3; ++i) pose[9 + i] = sign * control[i] - dot3(pose + 3 * i, frame.centre);
    return pose[9] + pose[10] + pose[11] - (pose[9] + pose[10] + pose[11]) == T(0);
}

// Which numbers of control points to try: 3 if *planar, 4 if *general.
template <typename T>
COOP_HD void control_point_cases(const EpnpFrame<T>& frame, bool* planar, bool* general) {
    const T ratio = frame.variances[2] / frame.variances[1];
    *planar = ratio <= T(GENERAL);
    *general = ratio >= T(PLANAR);
}

}  // namespace coop
