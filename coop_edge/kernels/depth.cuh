// What one thread does for one place of a rendered surface; coop_edge/ops/depth.py names the numbers repeated here.
#pragma once

#include "lens.cuh"

namespace coop {

constexpr int kPointNumbers = 18 + kLensNumbers, kSurfaceNumbers = 28, kBins = 256, kBinsPerDiameter = 16;
constexpr double kSteep = 0.2, kBent = 0.1, kTukey = 0.25;

enum SurfaceClass { kRendered = 1, kKnown = 2, kAgrees = 4, kHidden = 8, kViolated = 16 };

struct Surface {
    const float* __restrict__ depth;     // [size,size]
    const float* __restrict__ measured;  // [size,size,3], NaN = unknown
    int size;
    const double* __restrict__ numbers;  // K^-1, R^T, -R^T t, diameter, gate, tolerance, noise, floor, information
};

struct Compared {
    int classes, bin;  // of SurfaceClass; -1 = no bin
    float weight, point[3], place[3], normal[3];
};

__device__ __forceinline__ bool is_finite(double value) { return value - value == 0.0; }

// The point of K^-1 `ray` that a rendered pixel shows.
__device__ __forceinline__ void back_project(const double* ray, double x, double y, double z, double* point) {
    for (int k = 0; k < 3; ++k) point[k] = z * (ray[3 * k] * x + ray[3 * k + 1] * y + ray[3 * k + 2]);
}

// Difference of rendered points along (dx, dy), between those neighbours that lie on the surface; false if none.
__device__ inline bool surface_slope(const Surface& s, int x, int y, int dx, int dy, double* out) {
    const double z = s.depth[y * s.size + x], bent = kBent * s.numbers[21];
    double ends[2][3];
    bool found = false;
    for (int end = 0; end < 2; ++end) {
        const int i = x + (2 * end - 1) * dx, j = y + (2 * end - 1) * dy;
        double u = x, v = y, near = z;
        if (i >= 0 && i < s.size && j >= 0 && j < s.size) {
            const double other = s.depth[j * s.size + i];
            if (other > 0.0 && fabs(other - z) <= bent) u = i, v = j, near = other, found = true;
        }
        back_project(s.numbers, u, v, near, ends[end]);
    }
    for (int k = 0; k < 3; ++k) out[k] = ends[1][k] - ends[0][k];
    return found;
}

// The unit normal towards the camera at a rendered place; false where it cannot be told.
__device__ inline bool surface_normal(const Surface& s, int x, int y, const double* place, double* normal) {
    double along[3], down[3];
    if (!surface_slope(s, x, y, 1, 0, along) || !surface_slope(s, x, y, 0, 1, down)) return false;
    normal[0] = along[1] * down[2] - along[2] * down[1];
    normal[1] = along[2] * down[0] - along[0] * down[2];
    normal[2] = along[0] * down[1] - along[1] * down[0];
    const double length = sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
    const double facing = normal[0] * place[0] + normal[1] * place[1] + normal[2] * place[2];
    const double distance = sqrt(place[0] * place[0] + place[1] * place[1] + place[2] * place[2]);
    if (!(fabs(facing) >= kSteep * length * distance) || length == 0.0) return false;
    for (int k = 0; k < 3; ++k) normal[k] *= facing > 0.0 ? -1.0 / length : 1.0 / length;
    return true;
}

__device__ __forceinline__ double off_plane(const float* q, const double* place, const double* normal) {
    double off = 0.0;
    for (int k = 0; k < 3; ++k) off += normal[k] * ((double)q[k] - place[k]);
    return off;
}

// Whether a measured place lies beside a hole or an edge: two neighbours unknown, or one beyond the gate.
__device__ inline bool is_flying(const Surface& s, int x, int y, int step, const double* place, const double* normal,
                                 double gate) {
    int unknown = 0;
    for (int side = 0; side < 4; ++side) {
        const int i = x + (side == 0 ? step : side == 1 ? -step : 0), j = y + (side == 2 ? step : side == 3 ? -step : 0);
        const bool inside = i >= 0 && i < s.size && j >= 0 && j < s.size;
        const double off = inside ? off_plane(s.measured + 3 * (j * s.size + i), place, normal) : 0.0;
        if (!inside || !is_finite(off))
            ++unknown;
        else if (fabs(off) > gate)
            return true;
    }
    return unknown > 1;
}

__device__ inline Compared compare(const Surface& s, int x, int y, int step) {
    Compared out = {0, -1, 0.0f, {0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f}};
    const double* n = s.numbers;
    const double gate = n[22], tolerance = n[23], z = s.depth[y * s.size + x];
    if (!(z > 0.0)) return out;
    out.classes = kRendered;
    const float* q = s.measured + 3 * (y * s.size + x);
    if (!is_finite(q[2])) return out;
    double place[3], normal[3];
    back_project(n, x, y, z, place);
    const double gap = (double)q[2] - z, bin = gap / n[21] * kBinsPerDiameter + 0.5 + kBins / 2;
    if (bin >= 0.0 && bin < kBins) out.bin = (int)bin;
    const bool has_normal = surface_normal(s, x, y, place, normal);
    const double off = has_normal ? off_plane(q, place, normal) : gap;
    const double sigma2 = n[25] * n[25] + n[24] * z * z * (n[24] * z * z);
    const bool agrees = fabs(off) <= fmax(tolerance, 3.0 * sqrt(sigma2));
    out.classes |= kKnown | (agrees ? kAgrees : gap < 0.0 ? kHidden : kViolated);
    if (!(has_normal && fabs(off) < gate) || is_flying(s, x, y, step, place, normal, gate)) return out;
    const double robust = 1.0 - (off / gate) * (off / gate);
    out.weight = (float)(robust * sqrt(n[26] / (sigma2 + gate * kTukey * (gate * kTukey))));
    for (int k = 0; k < 3; ++k) {
        const double* turn = n + 9 + 3 * k;
        out.point[k] = (float)(turn[0] * place[0] + turn[1] * place[1] + turn[2] * place[2] + n[18 + k]);
        out.place[k] = q[k];
        out.normal[k] = (float)normal[k];
    }
    return out;
}

}  // namespace coop
