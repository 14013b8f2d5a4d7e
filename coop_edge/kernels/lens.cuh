// Lens distortion by OpenCV's models, as coop_edge/geometry/lens.py has it: from ideal pixels to pixels of the image.
#pragma once

namespace coop {

// Numbers of a lens: model, limit^2, fx, fy, cx, cy, then k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4, then the tilt.
constexpr int kLensNumbers = 27;

__device__ __forceinline__ float root(float x) { return sqrtf(x); }
__device__ __forceinline__ double root(double x) { return sqrt(x); }
__device__ __forceinline__ float angle_of(float x) { return atanf(x); }
__device__ __forceinline__ double angle_of(double x) { return atan(x); }

// How far a lens moves the ray (x, y, 1), at z = 1. False beyond the limit. n: of a lens with distortion.
template <typename T>
__device__ __forceinline__ bool displacement(const T* __restrict__ n, T x, T y, T* dx, T* dy) {
    const T r2 = x * x + y * y, one = T(1), two = T(2);
    if (!(r2 <= n[1])) return false;
    if (n[0] == two) {  // FISHEYE
        const T r = root(r2 + T(1e-18)), angle = angle_of(r), t2 = angle * angle;
        const T scale = angle * (one + t2 * (n[6] + t2 * (n[7] + t2 * (n[8] + t2 * n[9])))) / r - one;
        *dx = x * scale, *dy = y * scale;
        return true;
    }
    const T over = r2 * (n[6] + r2 * (n[7] + r2 * n[10])), under = r2 * (n[11] + r2 * (n[12] + r2 * n[13]));
    const T scale = (over - under) / (one + under);
    const T mx = x * scale + two * n[8] * x * y + n[9] * (r2 + two * x * x) + r2 * (n[14] + n[15] * r2);
    const T my = y * scale + n[8] * (r2 + two * y * y) + two * n[9] * x * y + r2 * (n[16] + n[17] * r2);
    const T a = x + mx, b = y + my, w = n[24] * a + n[25] * b + n[26];
    *dx = mx + ((n[18] - w) * a + n[19] * b + n[20]) / w;
    *dy = my + (n[21] * a + (n[22] - w) * b + n[23]) / w;
    return true;
}

}  // namespace coop
