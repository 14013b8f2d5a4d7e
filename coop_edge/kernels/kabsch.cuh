// The motion of three points whose places are measured, in closed form: coop_edge/pnp/kabsch.py says how.
//
// FP32: both triangles are taken about their first corners, so nothing is lost to their distance; the motion is good to
// about 1e-6 of the triangle's size, which noise of depth exceeds a thousandfold.
#pragma once

#include "p3p.cuh"

namespace coop {

// Sides p, q from the first corner of a triangle; false if it is flat (as P3P has it).
template <typename T>
COOP_HD bool triangle_sides(const T* X, T* p, T* q) {
    T normal[3];
    for (int k = 0; k < 3; ++k) {
        p[k] = X[3 + k] - X[k];
        q[k] = X[6 + k] - X[k];
    }
    cross3(p, q, normal);
    return dot3(normal, normal) > T(1e-10) * dot3(p, p) * dot3(q, q);
}

// Coordinates of the corners along the first two axes, about the centroid, [3,2].
template <typename T>
COOP_HD void corners_in_plane(const T* axes, const T* p, const T* q, T* out) {
    for (int axis = 0; axis < 2; ++axis) {
        const T second = dot3(axes + 3 * axis, p), third = dot3(axes + 3 * axis, q), mean = (second + third) / T(3);
        out[axis] = -mean;
        out[2 + axis] = second - mean;
        out[4 + axis] = third - mean;
    }
}

// The pose (R row-major, then t) that minimises the sum of |R X_i + t - Y_i|^2 over three points X, Y [3,3]; false if
// either triangle is flat.
template <typename T>
COOP_HD_CALL bool kabsch(const T* X, const T* Y, T* pose) {
    T p[3], q[3], P[3], Q[3], object_frame[9], camera_frame[9], x[6], y[6];
    if (!triangle_sides(X, p, q) || !triangle_sides(Y, P, Q)) return false;
    triangle_frame(p, q, object_frame);
    triangle_frame(P, Q, camera_frame);
    corners_in_plane(object_frame, p, q, x);
    corners_in_plane(camera_frame, P, Q, y);
    T along = T(0), across = T(0);
    for (int i = 0; i < 6; i += 2) {
        along += x[i] * y[i] + x[i + 1] * y[i + 1];
        across += x[i] * y[i + 1] - x[i + 1] * y[i];
    }
    const T length = sqrt(along * along + across * across);
    if (!(length > T(0))) return false;
    const T cosine = along / length, sine = across / length;
    for (int i = 0; i < 3; ++i) {
        const T first = cosine * camera_frame[i] + sine * camera_frame[3 + i];
        const T second = cosine * camera_frame[3 + i] - sine * camera_frame[i];
        for (int j = 0; j < 3; ++j)
            pose[3 * i + j] =
                first * object_frame[j] + second * object_frame[3 + j] + camera_frame[6 + i] * object_frame[6 + j];
    }
    T middle[3];
    for (int i = 0; i < 3; ++i) middle[i] = X[i] + (p[i] + q[i]) / T(3);
    for (int i = 0; i < 3; ++i) pose[9 + i] = Y[i] + (P[i] + Q[i]) / T(3) - dot3(pose + 3 * i, middle);
    return true;
}

}  // namespace coop
