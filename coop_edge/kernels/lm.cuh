// Residuals and Jacobians of points, lines and depths, and the 28 sums of the normal equations.
//
// FP32 where the points are (Orin computes FP64 at 1/64 of its FP32 rate), without losing the pixels' last digits: the
// object is centred on its weighted centroid and the image on that centroid's projection m0 at the start pose, by the
// shear P' = (Px - m0x Pz, Py - m0y Pz, Pz), which turns projections p into p - m0. The sheared pose is computed in
// FP64 once per pass. All numbers a point meets then have the size of the object, not of its distance or of its place
// in the image, and a residual is rounded by about 6e-8 of the object's size in pixels.
#pragma once

#include "se3.cuh"

namespace coop {

constexpr double MIN_DEPTH = 1e-6;  // metres; "in front of the camera" is z > MIN_DEPTH

enum Loss { LOSS_NONE = 0, LOSS_HUBER = 1, LOSS_CAUCHY = 2 };

// Places in the sums: upper triangle of J^T W J, J^T W r, cost, number of participants behind the camera.
enum LmSum { SUM_G = 21, SUM_COST = 27, SUM_BEHIND = 28, SUM_COUNT = 29 };

// Camera matrix entries, pixels.
template <typename T>
struct Intrinsics {
    T fx, skew, cx, fy, cy;
};

// A pose as the points see it: rows 0 and 1 of R and t sheared by the image origin m0.
template <typename T>
struct LmView {
    T R[9], t[3], m0[2];
    T fx, skew, fy;
};

// `view` of the pose (R, t), in double, rounded once at the end.
template <typename T>
COOP_HD void make_view(const double* R, const double* t, const double* m0, const Intrinsics<double>& K,
                       LmView<T>* view) {
    for (int row = 0; row < 3; ++row) {
        const double shear = row < 2 ? m0[row] : 0.0;
        for (int i = 0; i < 3; ++i) view->R[3 * row + i] = T(R[3 * row + i] - shear * R[6 + i]);
        view->t[row] = T(t[row] - shear * t[2]);
    }
    view->m0[0] = T(m0[0]);
    view->m0[1] = T(m0[1]);
    view->fx = T(K.fx);
    view->skew = T(K.skew);
    view->fy = T(K.fy);
}

// f(s) and f'(s) of s = w^2 |r|^2 (docs/solvers.md).
template <typename T>
COOP_HD T robust_cost(int loss, T scale, T s, T* slope) {
    const T d2 = scale * scale;
    *slope = T(1);
    if (loss == LOSS_HUBER && s > d2) {
        const T root = sqrt(s);
        *slope = scale / root;
        return T(2) * scale * root - d2;
    }
    if (loss == LOSS_CAUCHY) {
        *slope = T(1) / (T(1) + s / d2);
        return d2 * log1p(s / d2);
    }
    return s;
}

// Residual (pixels) and its derivative by xi = (rho, phi), R <- Exp(phi) R, t <- t + rho, of point X (centred) measured
// at m (normalised, less m0). False, with nothing written, if the point is not in front.
//   P = q + t, q = R X;   dr/drho = dr/dP = a (u row), b (v row);   dP/dphi = -hat(q), so dr/dphi = q x a, q x b.
template <typename T>
COOP_HD bool residual_and_jacobian(const LmView<T>& view, const T* X, const T* m, T* r, T* row_u, T* row_v) {
    const T qx = dot3(view.R, X), qy = dot3(view.R + 3, X), qz = dot3(view.R + 6, X);
    const T depth = qz + view.t[2];
    if (!(depth > T(MIN_DEPTH))) return false;
    const T inverse = T(1) / depth;
    const T x = (qx + view.t[0]) * inverse, y = (qy + view.t[1]) * inverse;
    const T ex = x - m[0], ey = y - m[1];
    r[0] = view.fx * ex + view.skew * ey;
    r[1] = view.fy * ey;
    const T full_x = x + view.m0[0], full_y = y + view.m0[1];
    const T q[3] = {qx + view.m0[0] * qz, qy + view.m0[1] * qz, qz};
    row_u[0] = view.fx * inverse;
    row_u[1] = view.skew * inverse;
    row_u[2] = -(view.fx * full_x + view.skew * full_y) * inverse;
    row_v[0] = T(0);
    row_v[1] = view.fy * inverse;
    row_v[2] = -view.fy * full_y * inverse;
    cross3(q, row_u, row_u + 3);
    cross3(q, row_v, row_v + 3);
    return true;
}

// Add one point of weight w to the sums.
template <typename T>
COOP_HD void accumulate(const LmView<T>& view, const T* X, const T* m, T w, int loss, T scale, T* sums) {
    T r[2], row_u[6], row_v[6];
    if (!residual_and_jacobian(view, X, m, r, row_u, row_v)) {
        sums[SUM_BEHIND] += T(1);
        return;
    }
    T slope;
    sums[SUM_COST] += robust_cost(loss, scale, w * w * (r[0] * r[0] + r[1] * r[1]), &slope);
    const T weight = w * w * slope;
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        const T u = weight * row_u[i], v = weight * row_v[i];
        sums[SUM_G + i] += u * r[0] + v * r[1];
#pragma unroll
        for (int j = i; j < 6; ++j) sums[upper<6>(i, j)] += u * row_u[j] + v * row_v[j];
    }
}

// Add one line of weight w to the sums: its residual is that of its point X along the unit normal n of the image line.
template <typename T>
COOP_HD void accumulate_line(const LmView<T>& view, const T* X, const T* m, const T* n, T w, int loss, T scale,
                             T* sums) {
    T across[2], row_u[6], row_v[6];
    if (!residual_and_jacobian(view, X, m, across, row_u, row_v)) {
        sums[SUM_BEHIND] += T(1);
        return;
    }
    const T r = n[0] * across[0] + n[1] * across[1];
    T slope;
    sums[SUM_COST] += robust_cost(loss, scale, w * w * r * r, &slope);
    const T weight = w * w * slope;
#pragma unroll
    for (int i = 0; i < 6; ++i) row_u[i] = n[0] * row_u[i] + n[1] * row_v[i];
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        const T u = weight * row_u[i];
        sums[SUM_G + i] += u * r;
#pragma unroll
        for (int j = i; j < 6; ++j) sums[upper<6>(i, j)] += u * row_u[j];
    }
}

// Add one depth of weight w to the sums: X off the plane of unit normal n (camera axes, not sheared) whose product with
// the measured place is `offset`, metres.
template <typename T>
COOP_HD void accumulate_depth(const LmView<T>& view, const T* X, const T* n, T offset, T w, int loss, T scale, T* sums) {
    const T z = dot3(view.R + 6, X), depth = z + view.t[2];
    if (!(depth > T(MIN_DEPTH))) {
        sums[SUM_BEHIND] += T(1);
        return;
    }
    const T q[3] = {dot3(view.R, X) + view.m0[0] * z, dot3(view.R + 3, X) + view.m0[1] * z, z};
    const T t[3] = {view.t[0] + view.m0[0] * view.t[2], view.t[1] + view.m0[1] * view.t[2], view.t[2]};
    const T r = dot3(n, q) + (dot3(n, t) - offset);
    T slope, row[6] = {n[0], n[1], n[2]};
    cross3(q, n, row + 3);
    sums[SUM_COST] += robust_cost(loss, scale, w * w * r * r, &slope);
    const T weight = w * w * slope;
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        const T u = weight * row[i];
        sums[SUM_G + i] += u * r;
#pragma unroll
        for (int j = i; j < 6; ++j) sums[upper<6>(i, j)] += u * row[j];
    }
}

}  // namespace coop
