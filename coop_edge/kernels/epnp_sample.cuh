// EPnP of a minimal sample, 4 to 6 points, by one thread.
//
// RANSAC uses it in FP32: with 5 or 6 points and on planes the poses reproject within 0.002 px of FP64's (90 %). With 4
// points that are not on a plane the null space has four dimensions, and FP32 loses some samples: the median error of a
// single sample's pose is 1.61 px where FP64's is 1.49 px (noise 1 px). As a hypothesis it is still good.
#pragma once

#include "epnp.cuh"
#include "score.cuh"

namespace coop {

// The `count` eigenvectors of smallest eigenvalue, ascending, from the columns of V; N x N.
template <typename T, int N>
COOP_HD void smallest_vectors(const T* A, const T* V, int size, int count, T* null) {
    bool taken[N];
    for (int i = 0; i < N; ++i) taken[i] = false;
    for (int v = 0; v < count; ++v) {
        int best = -1;
        for (int i = 0; i < size; ++i)
            if (!taken[i] && (best < 0 || A[i * N + i] < A[best * N + best])) best = i;
        taken[best] = true;
        for (int i = 0; i < size; ++i) null[v * size + i] = V[i * N + best];
    }
}

// Sum of squared errors of a pose over a sample; infinite if a point is not in front.
template <typename T>
COOP_HD T sample_error(const T* pose, const PixelScale<T>& scale, const T* X, const T* m, int n, T min_depth) {
    T sum = T(0);
    for (int i = 0; i < n; ++i) {
        const T error = squared_error(pose, scale, X + 3 * i, m[2 * i], m[2 * i + 1], min_depth);
        if (!(error >= T(0))) return T(-log(T(0)));
        sum += error;
    }
    return sum;
}

// The candidates with COUNT control points; `best` and `pose` are replaced by one that is better.
template <typename T, int COUNT>
COOP_HD_CALL void sample_candidates(const EpnpFrame<T>& frame, const PixelScale<T>& scale, const T* X, const T* m,
                                    int n, T min_depth, T* best, T* pose) {
    constexpr int SIZE = 3 * COUNT;
    T sums[40], A[SIZE * SIZE], V[SIZE * SIZE], null[COUNT * SIZE], alpha[4], candidate[12];
    for (int i = 0; i < 40; ++i) sums[i] = T(0);
    for (int i = 0; i < n; ++i) {
        barycentric(frame, COUNT, X + 3 * i, alpha);
        accumulate_normal(COUNT, alpha, m[2 * i], m[2 * i + 1], sums);
    }
    for (int i = 0; i < SIZE; ++i)
        for (int j = 0; j < SIZE; ++j) A[i * SIZE + j] = normal_entry(sums, i, j);
    jacobi_eigen<T, SIZE>(A, V, 16);
    smallest_vectors<T, SIZE>(A, V, SIZE, COUNT, null);
#pragma unroll 1
    for (int N = 1; N <= COUNT; ++N) {
        if (!epnp_candidate(frame, COUNT, null, N, candidate)) continue;
        const T error = sample_error(candidate, scale, X, m, n, min_depth);
        if (!(error < *best)) continue;
        *best = error;
        for (int i = 0; i < 12; ++i) pose[i] = candidate[i];
    }
}

// Pose of 4 to 6 points X [n,3] at normalised image points m [n,2]; false if no candidate has all points in front.
template <typename T>
COOP_HD bool epnp_sample(const T* X, const T* m, int n, const PixelScale<T>& scale, T min_depth, T* pose) {
    T centre[3] = {0, 0, 0}, covariance[6] = {0, 0, 0, 0, 0, 0};
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 3; ++k) centre[k] += X[3 * i + k] / T(n);
    for (int i = 0; i < n; ++i) {
        const T d[3] = {X[3 * i] - centre[0], X[3 * i + 1] - centre[1], X[3 * i + 2] - centre[2]};
        for (int j = 0; j < 3; ++j)
            for (int k = j; k < 3; ++k) covariance[upper<3>(j, k)] += d[j] * d[k] / T(n);
    }
    EpnpFrame<T> frame;
    if (!principal_axes(centre, covariance, &frame)) return false;
    bool planar, general;
    control_point_cases(frame, &planar, &general);
    T best = T(-log(T(0)));
    if (planar) sample_candidates<T, 3>(frame, scale, X, m, n, min_depth, &best, pose);
    if (general) sample_candidates<T, 4>(frame, scale, X, m, n, min_depth, &best, pose);
    return best < T(-log(T(0)));
}

}  // namespace coop
