// Reprojection errors in FP32, of points relative to the problem's origin and image points in normalised coordinates.
#pragma once

#include "linalg.cuh"

namespace coop {

// The part of K that turns a difference of normalised image points into pixels.
template <typename T>
struct PixelScale {
    T fx, skew, fy;
};

// Squared reprojection error, pixels^2, under the pose (R row-major, then t); negative if the point is not in front.
template <typename T>
COOP_HD T squared_error(const T* pose, const PixelScale<T>& scale, const T* X, T x, T y, T min_depth) {
    const T depth = dot3(pose + 6, X) + pose[11];
    if (!(depth > min_depth)) return T(-1);
    const T ex = (dot3(pose, X) + pose[9]) / depth - x, ey = (dot3(pose + 3, X) + pose[10]) / depth - y;
    const T du = scale.fx * ex + scale.skew * ey, dv = scale.fy * ey;
    return du * du + dv * dv;
}

// A point's share of the MSAC score. NaN counts as an outlier.
template <typename T>
COOP_HD T msac_share(T error, T threshold2) {
    return error >= T(0) && error < threshold2 ? error : threshold2;
}

}  // namespace coop
