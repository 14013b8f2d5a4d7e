// Rotations and the one retraction of the pose solvers: R <- Exp(phi) R, t <- t + rho (coop_edge/pnp/base.py).
#pragma once

#include "linalg.cuh"

namespace coop {

// Rotation vector (radians) to rotation matrix: I + a hat(phi) + b hat(phi)^2 (Rodrigues).
template <typename T>
COOP_HD void so3_exp(const T* phi, T* R) {
    const T x2 = dot3(phi, phi);
    const T x = sqrt(x2);
    T a, b;
    if (x < T(1e-2)) {
        a = T(1) - x2 / T(6) + x2 * x2 / T(120);
        b = T(0.5) - x2 / T(24) + x2 * x2 / T(720);
    } else {
        const T half = sin(T(0.5) * x);
        a = sin(x) / x;
        b = T(2) * half * half / x2;  // 1 - cos x would cancel
    }
    const T xx = b * phi[0] * phi[0], yy = b * phi[1] * phi[1], zz = b * phi[2] * phi[2];
    const T xy = b * phi[0] * phi[1], xz = b * phi[0] * phi[2], yz = b * phi[1] * phi[2];
    R[0] = T(1) - yy - zz;
    R[1] = xy - a * phi[2];
    R[2] = xz + a * phi[1];
    R[3] = xy + a * phi[2];
    R[4] = T(1) - xx - zz;
    R[5] = yz - a * phi[0];
    R[6] = xz - a * phi[1];
    R[7] = yz + a * phi[0];
    R[8] = T(1) - xx - yy;
}

// Unit quaternion (w, x, y, z) to rotation matrix.
template <typename T>
COOP_HD void quaternion_to_matrix(const T* q, T* R) {
    const T w = q[0], x = q[1], y = q[2], z = q[3];
    R[0] = T(1) - T(2) * (y * y + z * z);
    R[1] = T(2) * (x * y - w * z);
    R[2] = T(2) * (x * z + w * y);
    R[3] = T(2) * (x * y + w * z);
    R[4] = T(1) - T(2) * (x * x + z * z);
    R[5] = T(2) * (y * z - w * x);
    R[6] = T(2) * (x * z - w * y);
    R[7] = T(2) * (y * z + w * x);
    R[8] = T(1) - T(2) * (x * x + y * y);
}

// Rotation matrix to rotation vector, of length at most pi. Through the quaternion, whose largest component is found
// first, so that no angle is ill-conditioned.
template <typename T>
COOP_HD void so3_log(const T* R, T* phi) {
    const T trace = R[0] + R[4] + R[8];
    int i = R[4] > R[0] ? 1 : 0;
    if (R[8] > R[4 * i]) i = 2;
    T w;
    if (trace > R[4 * i]) {
        w = T(1) + trace;
        phi[0] = R[7] - R[5];
        phi[1] = R[2] - R[6];
        phi[2] = R[3] - R[1];
    } else {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        w = R[3 * k + j] - R[3 * j + k];
        phi[i] = T(1) + T(2) * R[4 * i] - trace;
        phi[j] = R[3 * j + i] + R[3 * i + j];
        phi[k] = R[3 * k + i] + R[3 * i + k];
        if (w < T(0)) {
            w = -w;
            for (int n = 0; n < 3; ++n) phi[n] = -phi[n];
        }
    }
    const T length = sqrt(dot3(phi, phi));
    const T scale = length > T(1e-30) ? T(2) * atan2(length, w) / length : T(2) / w;
    for (int n = 0; n < 3; ++n) phi[n] *= scale;
}

// d log(Exp(phi) Exp(v)) / d phi at phi = 0 (3 x 3) for a rotation vector v of length at most pi:
// I - hat(v) / 2 + c hat(v)^2, c = (1 - (a / 2) cot(a / 2)) / a^2, a = |v| (Barfoot, State Estimation for Robotics).
template <typename T>
COOP_HD void inverse_left_jacobian(const T* v, T* J) {
    const T a2 = dot3(v, v);
    T c;
    if (a2 < T(1e-4)) {
        c = T(1) / T(12) + a2 * (T(1) / T(720) + a2 / T(30240));
    } else {
        const T half = T(0.5) * sqrt(a2);
        c = (T(1) - half * cos(half) / sin(half)) / a2;
    }
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) J[3 * i + j] = c * v[i] * v[j] + (i == j ? T(1) - c * a2 : T(0));
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        J[3 * i + j] += T(0.5) * v[k];
        J[3 * j + i] -= T(0.5) * v[k];
    }
}

// Gram-Schmidt on the rows: undoes the drift of a product of rotations.
template <typename T>
COOP_HD void orthonormalise(T* R) {
    const T n0 = T(1) / sqrt(dot3(R, R));
    for (int i = 0; i < 3; ++i) R[i] *= n0;
    const T d = dot3(R, R + 3);
    for (int i = 0; i < 3; ++i) R[3 + i] -= d * R[i];
    const T n1 = T(1) / sqrt(dot3(R + 3, R + 3));
    for (int i = 0; i < 3; ++i) R[3 + i] *= n1;
    cross3(R, R + 3, R + 6);
}

// (R_out, t_out) = (Exp(phi) R, t + rho) with xi = (rho, phi).
template <typename T>
COOP_HD void retract(const T* R, const T* t, const T* xi, T* R_out, T* t_out) {
    T E[9];
    so3_exp(xi + 3, E);
    multiply33_33(E, R, R_out);
    orthonormalise(R_out);
    for (int i = 0; i < 3; ++i) t_out[i] = t[i] + xi[i];
}

}  // namespace coop
