// The parts of an outline's measurement that one thread does: coop_edge/ops/outline.py says what is measured, and names
// the numbers that are repeated here. Nothing depends on the order of threads.
#pragma once

#include "lens.cuh"
#include "reduce.cuh"

namespace coop {

constexpr int kLines = 160, kBins = 16, kColors = kBins * kBins * kBins;
constexpr int kReach = 12, kShift = 9, kPlaces = 2 * kReach + 1, kShifts = 2 * kShift + 1;
constexpr int kSpan = 4;     // CONTRAST_SPAN
constexpr int kWindow = 11;  // around a pixel of the outline, see ops.outline.Windows
constexpr int kViewNumbers = 23 + kLensNumbers;

__device__ __forceinline__ int limited(int value, int least, int most) { return min(max(value, least), most); }

// Bin of the colour of a pixel of an image [3,area] in [0, 1].
__device__ __forceinline__ int color_of(const float* __restrict__ image, int area, int pixel) {
    int color = 0;
    for (int channel = 0; channel < 3; ++channel) {
        const int level = (int)rintf(255.0f * __saturatef(image[channel * area + pixel]));
        color = color * kBins + level * kBins / 256;
    }
    return color;
}

// How much of a colour's share of one side a bin holds: counts smoothed by (1, 2, 1) / 4 along each channel. What would
// leave the histogram stays in its last bin.
__device__ __forceinline__ float smoothed_share(const int* __restrict__ histogram, int color, int total) {
    const int r = color / (kBins * kBins), g = color / kBins % kBins, b = color % kBins;
    int sum = 0;
    for (int i = -1; i <= 1; ++i)
        for (int j = -1; j <= 1; ++j)
            for (int k = -1; k <= 1; ++k) {
                const int at = (limited(r + i, 0, kBins - 1) * kBins + limited(g + j, 0, kBins - 1)) * kBins +
                               limited(b + k, 0, kBins - 1);
                sum += histogram[at] * (2 - abs(i)) * (2 - abs(j)) * (2 - abs(k));
            }
    return (float)sum / (float)(64 * total);
}

// One crop, and what the colours of its pixels say.
struct Seen {
    const float* __restrict__ image;     // [3,size,size]
    const float* __restrict__ beliefs;   // [kColors] 2 p - 1
    const float* __restrict__ depth;     // [size,size] of the render, 0 = nothing
    const float* __restrict__ measured;  // [size,size] NaN = unknown; nullptr without any
    float tolerance;                     // metres
    int size;

    // 2 p - 1 of a pixel, by its colour and its depth as independent witnesses; z: where its line begins.
    __device__ __forceinline__ float belief(int pixel, float z) const {
        const float by_color = beliefs[color_of(image, size * size, pixel)];
        if (!measured) return by_color;
        const float beyond = measured[pixel] - (depth[pixel] > 0.0f ? depth[pixel] : z);
        if (!(beyond >= -tolerance)) return by_color;  // nearer, or unknown
        const float by_depth = beyond <= tolerance ? 0.8f : -0.8f;  // DEPTH_BELIEF
        return (by_color + by_depth) / (1.0f + by_color * by_depth);
    }
};

// The belief at crop pixel (x, y), bilinear; 0 outside of the crop. z: where its line begins.
__device__ __forceinline__ float belief_at(const Seen& seen, float x, float y, float z) {
    // Also what no integer can hold, and NaN.
    if (!(x > -1.0f && y > -1.0f && x < (float)seen.size && y < (float)seen.size)) return 0.0f;
    const int left = (int)floorf(x), top = (int)floorf(y);
    float total = 0.0f;
    for (int row = top; row <= top + 1; ++row)
        for (int column = left; column <= left + 1; ++column)
            if (row >= 0 && row < seen.size && column >= 0 && column < seen.size)
                total += (1.0f - fabsf(x - (float)column)) * (1.0f - fabsf(y - (float)row)) *
                         seen.belief(row * seen.size + column, z);
    return total;
}

// Mean probability within an edge at `place` less that beyond it; beyond the line's ends nothing is known.
__device__ __forceinline__ float contrast_at(const float* seen, int place) {
    float total = 0.0f;
#pragma unroll  // every index is then known to the compiler, and `seen` stays in registers
    for (int k = 0; k < kPlaces; ++k) {
        if (k >= place - kSpan && k < place) total += seen[k];
        if (k > place && k <= place + kSpan) total -= seen[k];
    }
    return total / (float)(2 * kSpan);
}

struct Edge {
    float shift, variance, contrast, contrast_here;  // as `Outlines.edges`
};

// Posterior mean and variance of the edge's place, all equally likely before. step [2 (kReach + kShift) + 1].
__device__ __forceinline__ Edge find_edge(const float* seen, const float* __restrict__ step, float unit) {
    float likelihood[kShifts], total = 0.0f, mean = 0.0f, variance = 0.0f;
#pragma unroll
    for (int s = 0; s < kShifts; ++s) {
        float product = 1.0f;
#pragma unroll
        for (int k = 0; k < kPlaces; ++k) product *= 1.0f - step[k - s + 2 * kShift] * seen[k];
        likelihood[s] = product;
        total += product;
        mean += product * (float)(s - kShift);
    }
    mean /= total;
#pragma unroll
    for (int s = 0; s < kShifts; ++s) {
        const float off = (float)(s - kShift) - mean;
        variance += likelihood[s] / total * off * off;
    }
    return {unit * mean, unit * unit * variance, contrast_at(seen, kReach + (int)rintf(mean)),
            contrast_at(seen, kReach)};
}

// The inverse standard deviation of an edge's place, 1/px; 0 where the edge is faint.
__device__ __forceinline__ float weight_of(const Edge& edge, float unit) {
    const float clear = __saturatef((edge.contrast - 0.2f) / (0.6f - 0.2f));                // FAINT, CLEAR
    const float huber = fminf(1.0f, 2.0f * unit / fmaxf(fabsf(edge.shift), 1e-9f));         // LARGEST_SHIFT
    return sqrtf(clear * huber * 0.15f / fmaxf(edge.variance, 0.25f * unit * unit));        // INFORMATION, LEAST_VARIANCE
}

// A virtual camera, by the numbers of `outline.view_numbers`.
struct View {
    const double* __restrict__ numbers;

    // The object's point at crop pixel (x, y) and depth z.
    __device__ void point(double x, double y, double z, float* out) const {
        for (int i = 0; i < 3; ++i) {
            const double* a = numbers + 3 * i;
            out[i] = (float)(z * (a[0] * x + a[1] * y + a[2]) + numbers[9 + i]);
        }
    }

    // Whether crop pixel (x, y) lies in the image.
    __device__ bool in_image(double x, double y) const {
        const double* h = numbers + 12;
        const double u = h[0] * x + h[1] * y + h[2], v = h[3] * x + h[4] * y + h[5], w = h[6] * x + h[7] * y + h[8];
        const double* lens = h + 11;
        if (lens[0] != 0.0) {
            double dx, dy;
            if (!(w > 0.0) ||
                !displacement(lens, (u / w - lens[4]) / lens[2], (v / w - lens[5]) / lens[3], &dx, &dy))
                return false;
            const double column = u / w + lens[2] * dx, row = v / w + lens[3] * dy;
            return column >= 0.0 && row >= 0.0 && column <= h[9] - 1.0 && row <= h[10] - 1.0;
        }
        return w > 0.0 && u >= 0.0 && v >= 0.0 && u <= (h[9] - 1.0) * w && v <= (h[10] - 1.0) * w;
    }
};

}  // namespace coop
