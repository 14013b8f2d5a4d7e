// From the caller's arrays to what RANSAC reads, one block per problem: checks, compaction, FP32 coordinates.
//
// `In` is float or double, as the caller's arrays are. Points become FP32 relative to the first valid point, image
// points become normalised coordinates; both subtractions happen in `In`, so nothing is lost to a far-off origin.
#pragma once

#include "lm_input.cuh"

namespace coop {

constexpr int RANSAC_THREADS = 128;
constexpr int RANSAC_WARPS = RANSAC_THREADS / 32;

// The caller's arrays, [B][size]. K_stride: 0 if all problems share one K, else 9. depth and its weights are null where
// none is measured.
template <typename In>
struct RansacInput {
    const In *points_object, *points_image;
    const bool* valid;
    const In *depth, *weights;
    const double* K;
    int K_stride;
};

struct RansacProblem {
    Intrinsics<double> K;
    double origin[3];  // of the FP32 coordinates: the first valid point, metres
    int count, status;
};

struct ReadShared {
    float value[RANSAC_WARPS];
    int place[RANSAC_WARPS];
};

// The largest value over the block and its place, the lowest among equals. All threads must call and get the answer.
__device__ inline void block_argmax(float* value, int* place, ReadShared* shared) {
    for (int offset = 16; offset > 0; offset >>= 1) {
        const float other = __shfl_xor_sync(FULL_WARP, *value, offset);
        const int at = __shfl_xor_sync(FULL_WARP, *place, offset);
        if (other > *value || (other == *value && at < *place)) {
            *value = other;
            *place = at;
        }
    }
    if ((threadIdx.x & 31) == 0) {
        shared->value[threadIdx.x >> 5] = *value;
        shared->place[threadIdx.x >> 5] = *place;
    }
    __syncthreads();
    for (int w = 0; w < RANSAC_WARPS; ++w)
        if (shared->value[w] > *value || (shared->value[w] == *value && shared->place[w] < *place)) {
            *value = shared->value[w];
            *place = shared->place[w];
        }
    __syncthreads();
}

// Write the indices of valid points, ascending; returns how many. All threads must call.
__device__ inline int compact(const bool* valid, int size, int* index, ReadShared* shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int count = 0;
    for (int base = 0; base < size; base += RANSAC_THREADS) {
        const int i = base + threadIdx.x;
        const bool here = i < size && valid[i];
        const unsigned lanes = __ballot_sync(FULL_WARP, here);
        if (lane == 0) shared->place[warp] = __popc(lanes);
        __syncthreads();
        int place = count + __popc(lanes & ((1u << lane) - 1u));
        for (int w = 0; w < RANSAC_WARPS; ++w) {
            if (w < warp) place += shared->place[w];
            count += shared->place[w];
        }
        if (here) index[place] = i;
        __syncthreads();
    }
    return count;
}

template <typename In>
__device__ inline void difference(const In* a, const In* b, float* out) {
    for (int k = 0; k < 3; ++k) out[k] = float(a[k] - b[k]);
}

// Whether the points coincide or lie on a line (docs/solvers.md, DEGENERATE). All threads must call.
template <typename In>
__device__ inline bool degenerate(const In* points, const int* index, int count, ReadShared* shared) {
    const In* origin = points + 3 * index[0];
    float far = -1.0f;
    int place = count;
    float d[3];
    for (int i = threadIdx.x; i < count; i += RANSAC_THREADS) {
        difference(points + 3 * index[i], origin, d);
        if (dot3(d, d) > far) {
            far = dot3(d, d);
            place = i;
        }
    }
    block_argmax(&far, &place, shared);
    float axis[3], normal[3], height = 0.0f;
    difference(points + 3 * index[place], origin, axis);
    for (int i = threadIdx.x; i < count && far > 0.0f; i += RANSAC_THREADS) {
        difference(points + 3 * index[i], origin, d);
        cross3(axis, d, normal);
        height = fmax(height, sqrt(dot3(normal, normal) / far));
    }
    place = 0;
    block_argmax(&height, &place, shared);
    const float start[3] = {float(origin[0]), float(origin[1]), float(origin[2])};
    return height <= 1e-5f * sqrt(far) + 1e-6f * sqrt(dot3(start, start));
}

// Whether a measured depth cannot be meant: its weight is negative or not finite, or it is not finite and weighs.
template <typename In>
COOP_HD bool is_bad_depth(In depth, In weight) {
    return weight != In(0) && !(weight > In(0) && finite(weight) && finite(depth));
}

// Fill `problem`, the planes `points` [5][size] (X, Y, Z, x, y), 7 with measured depth (depth, weight), and `index`
// (place in the caller's arrays), all in the order of valid points. `in` starts at this problem.
template <typename In>
__device__ inline void ransac_read(const RansacInput<In>& in, int size, RansacProblem* problem, float* points,
                                   int* index, ReadShared* shared) {
    const In *points_object = in.points_object, *points_image = in.points_image;
    const double* K = in.K;
    const int count = compact(in.valid, size, index, shared);
    int bad = !is_camera(K);
    for (int i = threadIdx.x; i < count; i += RANSAC_THREADS) {
        const In* X = points_object + 3 * index[i];
        const In* u = points_image + 2 * index[i];
        bad |= !(finite(X[0]) && finite(X[1]) && finite(X[2]) && finite(u[0]) && finite(u[1]));
        if (in.depth) bad |= is_bad_depth(in.depth[index[i]], in.weights[index[i]]);
    }
    bad = __syncthreads_or(bad);
    int status = bad ? NON_FINITE : count < 4 ? TOO_FEW_POINTS : SOLVED;
    if (status == SOLVED && degenerate(points_object, index, count, shared)) status = DEGENERATE;
    const Intrinsics<double> camera = read_intrinsics(K);
    const In* origin = points_object + (count > 0 ? 3 * index[0] : 0);
    if (threadIdx.x == 0) {
        problem->K = camera;
        problem->count = count;
        problem->status = status;
        for (int k = 0; k < 3; ++k) problem->origin[k] = status == SOLVED ? double(origin[k]) : 0.0;
    }
    for (int i = threadIdx.x; i < count && status == SOLVED; i += RANSAC_THREADS) {
        float d[3], m[2];
        difference(points_object + 3 * index[i], origin, d);
        normalise(camera, 0.0, 0.0, points_image + 2 * index[i], m, 1);
        for (int k = 0; k < 3; ++k) points[k * size + i] = d[k];
        for (int k = 0; k < 2; ++k) points[(3 + k) * size + i] = m[k];
        if (!in.depth) continue;
        const float weight = float(in.weights[index[i]]);
        points[5 * size + i] = weight > 0.0f ? float(in.depth[index[i]]) : 0.0f;
        points[6 * size + i] = weight;
    }
}

}  // namespace coop
