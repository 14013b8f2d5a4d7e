// P3P by the degenerate conic of a pencil (the method of coop_edge/pnp/p3p.py), in variables that FP32 can carry.
//
// With unit rays y_i and distances l_i, |l_i y_i - l_j y_j|^2 = (l_i - l_j)^2 + c_ij l_i l_j, c_ij = |y_i - y_j|^2. An
// object far away sees rays that are nearly parallel: in the textbook form l_i^2 + l_j^2 - 2 cos l_i l_j the answer is
// the small difference of large terms, and FP32 is lost. So the unknowns are (w, u, v) with l_1 = w / e, l_2 = l_1 + u,
// l_3 = l_1 + v and e^2 the mean of the c_ij, which all have the size of the triangle, and c_ij comes from the cross
// product of the rays' image points, which does not cancel. Measured on 7,200 samples of the tests' problems, FP32
// finds the same number of poses as FP64, and they reproject within 2e-5 px of FP64's in the median, 0.001 px in 99 %
// and 0.02 px in 99.9 % (near-double roots). FP64 is therefore not used here.
#pragma once

#include "conics.cuh"

namespace coop {

// The triangle in normalised units (sum of squared sides 3) and its rays.
template <typename T>
struct Triangle {
    Conic<T> M[3];  // squared sides 12, 13, 23 as quadrics of (w, u, v)
    T a[3];         // what they should be
    T e;            // l_1 = w / e
};

// Scale a point to the triangle's size, with all three distances positive, and polish it by Newton's method on the
// three side equations. False if it is no solution.
template <typename T>
COOP_HD bool solve_distances(const Triangle<T>& triangle, T* x) {
    if (x[0] < T(0))
        for (int i = 0; i < 3; ++i) x[i] = -x[i];
    T size = T(0), rows[3][3], r[3];
    for (int i = 0; i < 3; ++i) {
        apply(triangle.M[i], x, rows[i]);
        size += dot3(rows[i], x);
    }
    if (!(size > T(0))) return false;
    const T factor = sqrt(T(3) / size);
    for (int i = 0; i < 3; ++i) x[i] *= factor;
    T residual = T(0);
    for (int step = 0;; ++step) {
        residual = T(0);
        for (int i = 0; i < 3; ++i) {
            apply(triangle.M[i], x, rows[i]);
            r[i] = dot3(rows[i], x) - triangle.a[i];
            residual += fabs(r[i]);
        }
        if (step == 3) break;
        // rows is half the Jacobian; x -= J^-1 r by cross products.
        T n01[3], n12[3], n20[3];
        cross3(rows[0], rows[1], n01);
        cross3(rows[1], rows[2], n12);
        cross3(rows[2], rows[0], n20);
        const T determinant = dot3(rows[0], n12);
        if (determinant == T(0)) break;
        const T k = T(0.5) / determinant;
        for (int i = 0; i < 3; ++i) x[i] -= k * (r[0] * n12[i] + r[1] * n20[i] + r[2] * n01[i]);
    }
    const T l1 = x[0] / triangle.e;
    const T tolerance = sizeof(T) == 8 ? T(1e-6) : T(1e-4);
    return residual < tolerance && l1 > T(0) && l1 + x[1] > T(0) && l1 + x[2] > T(0);
}

// Orthonormal axes (rows) of a triangle with sides p, q from its first corner.
template <typename T>
COOP_HD void triangle_frame(const T* p, const T* q, T* axes) {
    T k = T(1) / sqrt(dot3(p, p));
    for (int i = 0; i < 3; ++i) axes[i] = k * p[i];
    cross3(p, q, axes + 6);
    k = T(1) / sqrt(dot3(axes + 6, axes + 6));
    for (int i = 6; i < 9; ++i) axes[i] *= k;
    cross3(axes + 6, axes, axes + 3);
}

// Unit rays, and the differences of the second and third to the first without cancellation.
template <typename T>
struct Rays {
    T y[9], difference[9];  // difference[0..2] unused
};

template <typename T>
COOP_HD void make_rays(const T* m, Rays<T>* rays, T* c) {
    T n[3], inverse[3];
    for (int i = 0; i < 3; ++i) {
        n[i] = m[2 * i] * m[2 * i] + m[2 * i + 1] * m[2 * i + 1] + T(1);
        inverse[i] = T(1) / sqrt(n[i]);
        rays->y[3 * i] = m[2 * i] * inverse[i];
        rays->y[3 * i + 1] = m[2 * i + 1] * inverse[i];
        rays->y[3 * i + 2] = inverse[i];
    }
    for (int side = 0; side < 3; ++side) {
        const int i = side == 2 ? 1 : 0, j = side == 0 ? 1 : 2;
        const T dx = m[2 * j] - m[2 * i], dy = m[2 * j + 1] - m[2 * i + 1];
        const T twist = m[2 * i] * dy - m[2 * i + 1] * dx;
        const T sine2 = (dx * dx + dy * dy + twist * twist) / (n[i] * n[j]);
        const T cosine = dot3(rays->y + 3 * i, rays->y + 3 * j);
        c[side] = cosine > T(0) ? T(2) * sine2 / (T(1) + cosine) : T(2) - T(2) * cosine;
        if (i != 0) continue;
        // 1/|m_j| - 1/|m_i| = (n_i - n_j) / (...), n_i - n_j = (m_i - m_j)(m_i + m_j).
        const T fall = -(dx * (m[2 * i] + m[2 * j]) + dy * (m[2 * i + 1] + m[2 * j + 1]));
        const T stretch = fall * inverse[i] * inverse[j] / (sqrt(n[i]) + sqrt(n[j]));
        rays->difference[3 * j] = dx * inverse[j] + m[2 * i] * stretch;
        rays->difference[3 * j + 1] = dy * inverse[j] + m[2 * i + 1] * stretch;
        rays->difference[3 * j + 2] = stretch;
    }
}

// The motion that carries the triangle (first corner X1, sides p, q) onto the points l_i y_i; `size`: metres per unit.
template <typename T>
COOP_HD void triangle_pose(const T* X1, const T* p, const T* q, const Rays<T>& rays, T e, T size, const T* x, T* pose) {
    const T l1 = x[0] / e;
    T P[3], Q[3], object_frame[9], camera_frame[9], middle[3];
    for (int i = 0; i < 3; ++i) {
        P[i] = size * (x[1] * rays.y[3 + i] + l1 * rays.difference[3 + i]);
        Q[i] = size * (x[2] * rays.y[6 + i] + l1 * rays.difference[6 + i]);
        middle[i] = X1[i] + (p[i] + q[i]) / T(3);
    }
    triangle_frame(p, q, object_frame);
    triangle_frame(P, Q, camera_frame);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            pose[3 * i + j] = camera_frame[i] * object_frame[j] + camera_frame[3 + i] * object_frame[3 + j] +
                              camera_frame[6 + i] * object_frame[6 + j];
    for (int i = 0; i < 3; ++i)
        pose[9 + i] = size * l1 * rays.y[i] + (P[i] + Q[i]) / T(3) - dot3(pose + 3 * i, middle);
}

// Poses (R row-major, then t; 12 numbers each, at most 4) that put three points X [3,3] on the rays through the
// normalised image points m [3,2], in front of the camera; returns how many. None if the triangle is flat.
template <typename T>
COOP_HD_CALL int p3p(const T* X_in, const T* m_in, T* poses) {
    // Relabelled such that the side 23 is the longest: the conics are differences to it, and stay well apart.
    T X[9], m[6], a[3];
    int corner = 0;
    T longest = T(-1);
    for (int i = 0; i < 3; ++i) {
        T side[3];
        for (int k = 0; k < 3; ++k) side[k] = X_in[3 * ((i + 1) % 3) + k] - X_in[3 * ((i + 2) % 3) + k];
        if (dot3(side, side) > longest) {
            longest = dot3(side, side);
            corner = i;
        }
    }
    for (int i = 0; i < 3; ++i) {
        const int from = (corner + i) % 3;
        for (int k = 0; k < 3; ++k) X[3 * i + k] = X_in[3 * from + k];
        for (int k = 0; k < 2; ++k) m[2 * i + k] = m_in[2 * from + k];
    }
    T p[3], q[3], s[3], normal[3];
    for (int k = 0; k < 3; ++k) {
        p[k] = X[3 + k] - X[k];
        q[k] = X[6 + k] - X[k];
        s[k] = X[6 + k] - X[3 + k];
    }
    a[0] = dot3(p, p);
    a[1] = dot3(q, q);
    a[2] = dot3(s, s);
    cross3(p, q, normal);
    if (!(dot3(normal, normal) > T(1e-10) * a[0] * a[1])) return 0;

    Rays<T> rays;
    T c[3];
    make_rays(m, &rays, c);
    const T mean = (c[0] + c[1] + c[2]) / T(3);
    if (!(mean > T(0))) return 0;
    const T scale = T(3) / (a[0] + a[1] + a[2]), e = sqrt(mean);
    const T k12 = c[0] / mean, k13 = c[1] / mean, k23 = c[2] / mean, half = T(0.5) * e;
    const Triangle<T> triangle = {{{{k12, half * k12, T(0), T(1), T(0), T(0)}},
                                   {{k13, T(0), half * k13, T(0), T(0), T(1)}},
                                   {{k23, half * k23, half * k23, T(1), T(0.5) * c[2] - T(1), T(1)}}},
                                  {scale * a[0], scale * a[1], scale * a[2]},
                                  e};
    const Conic<T> D1 = combine(triangle.a[2], triangle.M[0], -triangle.a[0], triangle.M[2]);
    const Conic<T> D2 = combine(triangle.a[2], triangle.M[1], -triangle.a[1], triangle.M[2]);
    Conic<T> C, other;
    T vertex[3], line[3], x[6];
    if (!line_pair(D1, D2, &C, vertex, &other)) return 0;
    int count = 0;
    for (int side = 0; side < 2; ++side) {
        split_line(C, vertex, side, line);
        if (!meet(line, other, x, x + 3)) continue;
        for (int root = 0; root < 2; ++root) {
            if (!solve_distances(triangle, x + 3 * root)) continue;
            triangle_pose(X, p, q, rays, e, T(1) / sqrt(scale), x + 3 * root, poses + 12 * count);
            ++count;
        }
    }
    return count;
}

}  // namespace coop
