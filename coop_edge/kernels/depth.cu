// Depth in crops and under rendered surfaces: coop_edge/ops/depth.py says what is computed, ops/cuda.py launches.
//
// A thread per pixel of a crop, or per place of a surface; the hypothesis is blockIdx.y. FP64, as on the CPU: there are
// a few thousand places, and which pixel is the nearest and which side of a gate a point is on come out alike. Counts
// are integers, so a hypothesis' result is the same in every run and every batch.
#include "depth.cuh"

using namespace coop;

static constexpr int kBlock = 128;

// depth [height,width]; numbers [n,45]; out [n,size,size,3].
extern "C" __global__ void __launch_bounds__(kBlock)
depth_points(const float* __restrict__ depth, int height, int width, const double* __restrict__ numbers, int size,
             float* __restrict__ out) {
    const int pixel = blockIdx.x * kBlock + threadIdx.x;
    if (pixel >= size * size) return;
    const double x = pixel % size, y = pixel / size;
    const double *h = numbers + kPointNumbers * blockIdx.y, *a = h + 9, *lens = a + 9;
    float* point = out + 3 * ((long long)blockIdx.y * size * size + pixel);
    for (int k = 0; k < 3; ++k) point[k] = __int_as_float(0x7fc00000);
    const double w = h[6] * x + h[7] * y + h[8];
    if (!(w > 0.0)) return;
    const double u = (h[0] * x + h[1] * y + h[2]) / w, v = (h[3] * x + h[4] * y + h[5]) / w;
    double seen_u = u, seen_v = v;
    if (lens[0] != 0.0) {
        double dx, dy;
        if (!displacement(lens, (u - lens[4]) / lens[2], (v - lens[5]) / lens[3], &dx, &dy)) return;
        seen_u = u + lens[2] * dx, seen_v = v + lens[3] * dy;
    }
    if (!(seen_u >= -0.5 && seen_u < width - 0.5 && seen_v >= -0.5 && seen_v < height - 0.5)) return;
    const int column = min((int)(seen_u + 0.5), width - 1), row = min((int)(seen_v + 0.5), height - 1);
    const double z = depth[(long long)row * width + column];
    if (!(z > 0.0)) return;
    const double ray_u = lens[0] != 0.0 ? u + (column - seen_u) : column;
    const double ray_v = lens[0] != 0.0 ? v + (row - seen_v) : row;
    for (int k = 0; k < 3; ++k) point[k] = (float)(z * (a[3 * k] * ray_u + a[3 * k + 1] * ray_v + a[3 * k + 2]));
}

// depth [m,size,size]; measured [m,size,size,3]; numbers [m,28]; places every `step` pixels, side x side of them; the
// rest as the arrays of ops.depth.Surfaces, of which tally and gaps are 0.
extern "C" __global__ void __launch_bounds__(kBlock)
compare_surfaces(const float* __restrict__ depth, const float* __restrict__ measured, const double* __restrict__ numbers,
                 int size, int side, int step, float* __restrict__ points, float* __restrict__ places,
                 float* __restrict__ normals, float* __restrict__ weights, int* __restrict__ tally,
                 int* __restrict__ gaps) {
    const int index = blockIdx.x * kBlock + threadIdx.x;
    if (index >= side * side) return;
    const long long first = (long long)blockIdx.y * size * size, out = (long long)blockIdx.y * side * side + index;
    const int x = step / 2 + step * (index % side), y = step / 2 + step * (index / side);
    const Surface surface = {depth + first, measured + 3 * first, size, numbers + kSurfaceNumbers * blockIdx.y};
    const Compared found = compare(surface, x, y, step);
    int* counts = tally + 5 * blockIdx.y;
    for (int k = 0; k < 5; ++k)
        if (found.classes >> k & 1) atomicAdd(counts + k, 1);
    if (found.bin >= 0) atomicAdd(gaps + kBins * blockIdx.y + found.bin, 1);
    weights[out] = found.weight;
    for (int k = 0; k < 3; ++k) {
        points[3 * out + k] = found.point[k];
        places[3 * out + k] = found.place[k];
        normals[3 * out + k] = found.normal[k];
    }
}
