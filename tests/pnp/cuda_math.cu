// Test entry points into the solvers' .cuh files: one thread per item unless said otherwise.
#include "../../coop_edge/kernels/epnp_block.cuh"
#include "../../coop_edge/kernels/lm_prior.cuh"
#include "../../coop_edge/kernels/kabsch.cuh"
#include "../../coop_edge/kernels/rng.cuh"

using namespace coop;

extern "C" __global__ void samples(unsigned long long seed, unsigned problem, int n, int m, int count, int* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) draw_sample(seed, problem, unsigned(i), n, m, out + m * i);
}

template <typename T>
__device__ inline void p3p_item(const T* X, const T* m, int count, T* poses, int* roots) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) roots[i] = p3p(X + 9 * i, m + 6 * i, poses + 48 * i);
}

extern "C" __global__ void p3p_f32(const float* X, const float* m, int count, float* poses, int* roots) {
    p3p_item(X, m, count, poses, roots);
}

extern "C" __global__ void p3p_f64(const double* X, const double* m, int count, double* poses, int* roots) {
    p3p_item(X, m, count, poses, roots);
}

template <typename T>
__device__ inline void kabsch_item(const T* X, const T* Y, int count, T* poses, int* found) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) found[i] = kabsch(X + 9 * i, Y + 9 * i, poses + 12 * i);
}

extern "C" __global__ void kabsch_f32(const float* X, const float* Y, int count, float* poses, int* found) {
    kabsch_item(X, Y, count, poses, found);
}

extern "C" __global__ void kabsch_f64(const double* X, const double* Y, int count, double* poses, int* found) {
    kabsch_item(X, Y, count, poses, found);
}

template <typename T>
__device__ inline void epnp_item(const T* X, const T* m, const T* focal, int n, int count, T* poses, int* found) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const PixelScale<T> scale = {focal[i], T(0), focal[i]};
    found[i] = epnp_sample(X + 3 * n * i, m + 2 * n * i, n, scale, T(MIN_DEPTH), poses + 12 * i);
}

extern "C" __global__ void epnp_f32(const float* X, const float* m, const float* focal, int n, int count, float* poses,
                                    int* found) {
    epnp_item(X, m, focal, n, count, poses, found);
}

extern "C" __global__ void epnp_f64(const double* X, const double* m, const double* focal, int n, int count,
                                    double* poses, int* found) {
    epnp_item(X, m, focal, n, count, poses, found);
}

// EPnP of all points, one block per problem: points [count][5][n].
extern "C" __global__ void epnp_points(const float* points, const unsigned char* used, const float* focal, int n,
                                       float* poses, int* found) {
    __shared__ float scratch[128];
    __shared__ double total[32];
    __shared__ EpnpShared shared;
    const int i = blockIdx.x;
    const PointSet set = {points + 5 * n * i, used + n * i, n, n};
    const PixelScale<float> scale = {focal[i], 0.0f, focal[i]};
    block_epnp(set, scale, scratch, total, &shared);
    if (threadIdx.x == 0) found[i] = shared.found;
    if (threadIdx.x < 12) poses[12 * i + threadIdx.x] = shared.pose[threadIdx.x];
}

// Residual [2] and its Jacobian [2,6] at the pose moved by xi; poses [count][12], K = fx, skew, cx, fy, cy.
template <typename T>
__device__ inline void residual_item(const double* pose, const double* xi, const double* m0, const double* K,
                                     const double* X, const double* u, int count, T* residual, T* jacobian) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    double R[9], t[3];
    retract(pose + 12 * i, pose + 12 * i + 9, xi + 6 * i, R, t);
    const Intrinsics<double> camera = {K[0], K[1], K[2], K[3], K[4]};
    LmView<T> view;
    make_view(R, t, m0 + 2 * i, camera, &view);
    const double y = (u[2 * i + 1] - K[4]) / K[3], x = (u[2 * i] - K[2] - K[1] * y) / K[0];
    const T point[3] = {T(X[3 * i]), T(X[3 * i + 1]), T(X[3 * i + 2])};
    const T measured[2] = {T(x - m0[2 * i]), T(y - m0[2 * i + 1])};
    residual_and_jacobian(view, point, measured, residual + 2 * i, jacobian + 12 * i, jacobian + 12 * i + 6);
}

extern "C" __global__ void residual_f32(const double* pose, const double* xi, const double* m0, const double* K,
                                        const double* X, const double* u, int count, float* residual,
                                        float* jacobian) {
    residual_item(pose, xi, m0, K, X, u, count, residual, jacobian);
}

extern "C" __global__ void residual_f64(const double* pose, const double* xi, const double* m0, const double* K,
                                        const double* X, const double* u, int count, double* residual,
                                        double* jacobian) {
    residual_item(pose, xi, m0, K, X, u, count, residual, jacobian);
}

// The share of each line in the 28 sums at its pose; lines X, u, n, w.
extern "C" __global__ void line_terms(const double* pose, const double* m0, const double* K, const double* lines,
                                      int loss, double scale, int count, double* sums) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Intrinsics<double> camera = {K[0], K[1], K[2], K[3], K[4]};
    LmView<double> view;
    make_view(pose + 12 * i, pose + 12 * i + 9, m0 + 2 * i, camera, &view);
    const double *X = lines + 8 * i, *u = X + 3, *n = X + 5;
    const double y = (u[1] - K[4]) / K[3], x = (u[0] - K[2] - K[1] * y) / K[0];
    const double m[2] = {x - m0[2 * i], y - m0[2 * i + 1]};
    double all[SUM_COUNT] = {};
    accumulate_line(view, X, m, n, X[7], loss, scale, all);
    for (int k = 0; k < 28; ++k) sums[28 * i + k] = all[k];
}

extern "C" __global__ void robust(const double* s, int loss, double scale, int count, double* cost, double* slope) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) cost[i] = robust_cost(loss, scale, s[i], slope + i);
}

// One warp per matrix; A becomes diagonal.
extern "C" __global__ void eigen_12(float* A, float* V) {
    __shared__ float rotation[6][2];
    warp_jacobi<12>(A + 144 * blockIdx.x, V + 144 * blockIdx.x, rotation);
}

extern "C" __global__ void eigen_10(float* A, float* V) {
    __shared__ float rotation[6][2];
    warp_jacobi<10>(A + 100 * blockIdx.x, V + 100 * blockIdx.x, rotation);
}

// v [threads][width] -> total [width], one block, for widths 32 and 4.
extern "C" __global__ void sums_32(float* v, double* out) {
    __shared__ float scratch[128];
    __shared__ double total[32];
    block_sums<32>(v + 32 * threadIdx.x, scratch, total);
    if (threadIdx.x < 32) out[threadIdx.x] = total[threadIdx.x];
}

extern "C" __global__ void sums_4(float* v, double* out) {
    __shared__ float scratch[16];
    __shared__ double total[4];
    block_sums<4>(v + 4 * threadIdx.x, scratch, total);
    if (threadIdx.x < 4) out[threadIdx.x] = total[threadIdx.x];
}

// The prior's share of the 28 sums at poses (R, t) of points centred on `centroid`; and log and the inverse left Jacobian.
extern "C" __global__ void prior_terms(const double* T_anchor, const double* centre, const double* information,
                                       const double* centroid, const double* pose, int count, double* sums) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    LmPrior prior;
    const PriorInput in = {T_anchor + 16 * i, centre + 3 * i, information + 36 * i};
    read_prior(in, centroid + 3 * i, &prior);
    for (int k = 0; k < 28; ++k) sums[28 * i + k] = 0.0;
    add_prior(prior, pose + 12 * i, pose + 12 * i + 9, sums + 28 * i);
}

extern "C" __global__ void rotation_terms(const double* R, int count, double* phi, double* J) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    so3_log(R + 9 * i, phi + 3 * i);
    inverse_left_jacobian(phi + 3 * i, J + 9 * i);
}
