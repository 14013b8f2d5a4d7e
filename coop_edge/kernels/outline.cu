// Edges along rendered outlines, M hypotheses at once; coop_edge/ops/outline_cuda.py holds the launches.
//
//   outline_columns   rows to the nearest pixel of the other kind, covered or not    a thread per pixel
//   outline_colors    distance to the outline; colours on either side are counted    a thread per pixel
//   outline_border    the outline's pixels and their normals                         a thread per pixel
//   outline_beliefs   what each colour says                                          a thread per colour
//   outline_lines     a search line per place, then the verdict                      a block per hypothesis
//
// The hypothesis is blockIdx.y, in outline_lines blockIdx.x. All counts are integers and sums have a fixed order, so a
// hypothesis' result is the same in every run and every batch.
#include "outline.cuh"

using namespace coop;

constexpr int kBlock = 128;

// Of the counters of a hypothesis, int32 [2 * kColors + 2 + size]: two histograms, their totals, lines per row.
struct Counters {
    int *histograms, *totals, *rows;
};

__device__ __forceinline__ Counters counters_of(int* counters, int hypothesis, int size) {
    int* first = counters + (long long)hypothesis * (2 * kColors + 2 + size);
    return {first, first + 2 * kColors, first + 2 * kColors + 2};
}

// depth [M,size,size]; rows [M,size,size], `farthest` where there is none nearer.
extern "C" __global__ void __launch_bounds__(kBlock)
outline_columns(const float* __restrict__ depth, int size, int farthest, unsigned short* __restrict__ rows) {
    const int pixel = blockIdx.x * kBlock + threadIdx.x, y = pixel / size;
    if (pixel >= size * size) return;
    const long long first = (long long)blockIdx.y * size * size;
    const float* map = depth + first;
    const bool covered = map[pixel] > 0.0f;
    int step = 1;
    for (; step < farthest; ++step) {
        if (y >= step && (map[pixel - step * size] > 0.0f) != covered) break;
        if (y + step < size && (map[pixel + step * size] > 0.0f) != covered) break;
    }
    rows[first + pixel] = (unsigned short)step;
}

// query [M,3,size,size]; distance [M,size,size] pixels, negative inside, at most `farthest` - 0.5; counters are 0.
extern "C" __global__ void __launch_bounds__(kBlock)
outline_colors(const float* __restrict__ query, const float* __restrict__ depth,
               const unsigned short* __restrict__ rows, int size, int farthest, float inset, float ring,
               float* __restrict__ distance, int* __restrict__ counters) {
    const int pixel = blockIdx.x * kBlock + threadIdx.x, area = size * size;
    const long long first = (long long)blockIdx.y * area;
    int side = -1;
    const Counters counted = counters_of(counters, blockIdx.y, size);
    if (pixel < area) {
        const bool covered = depth[first + pixel] > 0.0f;
        const int x = pixel % size;
        int best = (int)rows[first + pixel] * (int)rows[first + pixel];
        for (int step = 1; step * step < best; ++step)
            for (int way = -1; way <= 1; way += 2) {
                if (x + way * step < 0 || x + way * step >= size) continue;
                const long long there = first + pixel + way * step;
                const int down = (depth[there] > 0.0f) == covered ? (int)rows[there] : 0;
                best = min(best, step * step + down * down);
            }
        const float away = sqrtf((float)best) - 0.5f;
        distance[first + pixel] = covered ? -away : away;
        side = away <= inset ? -1 : covered ? 0 : away < ring ? 1 : -1;
        if (side >= 0) atomicAdd(counted.histograms + side * kColors + color_of(query + 3 * first, area, pixel), 1);
    }
    for (int of = 0; of < 2; ++of) {
        const int count = __syncthreads_count(side == of);
        if (threadIdx.x == 0 && count) atomicAdd(counted.totals + of, count);
    }
}

// windows [3,kWindow]: smooth, slope, blur; border [M,size,size,3]: unit normal (0 where there is no line), pixels
// from the pixel's centre to the outline along it.
extern "C" __global__ void __launch_bounds__(kBlock)
outline_border(const float* __restrict__ distance, const float* __restrict__ windows, int size, float* __restrict__ border,
               int* __restrict__ counters) {
    const int pixel = blockIdx.x * kBlock + threadIdx.x, x = pixel % size, y = pixel / size;
    if (pixel >= size * size) return;
    const long long first = (long long)blockIdx.y * size * size;
    const float here = distance[first + pixel];
    float* out = border + 3 * (first + pixel);
    out[0] = out[1] = out[2] = 0.0f;
    // Covered, and one of the eight neighbours is not: their centres are at most 1.42 away.
    if (here > 0.0f || here < -1.0f || x == 0 || y == 0 || x == size - 1 || y == size - 1) return;
    const float *smooth = windows, *slope = windows + kWindow, *blur = windows + 2 * kWindow;
    float along_x = 0.0f, along_y = 0.0f, share = 0.0f;
    for (int j = 0; j < kWindow; ++j) {
        const float* row = distance + first + (long long)limited(y + j - kWindow / 2, 0, size - 1) * size;
        float sloped = 0.0f, smoothed = 0.0f, blurred = 0.0f;
        for (int i = 0; i < kWindow; ++i) {
            const float value = row[limited(x + i - kWindow / 2, 0, size - 1)];
            sloped += slope[i] * value;
            smoothed += smooth[i] * value;
            if (value < 0.0f) blurred += blur[i];
        }
        along_x += smooth[j] * sloped;
        along_y += slope[j] * smoothed;
        share += blur[j] * blurred;
    }
    const float length = sqrtf(along_x * along_x + along_y * along_y);
    if (!(length > 0.3f)) return;  // LEAST_SLOPE
    share = fminf(fmaxf(share, 0.05f), 0.95f);
    out[0] = along_x / length;
    out[1] = along_y / length;
    out[2] = logf(share / (1.0f - share)) / 1.6f;  // EDGE_BLUR / LOGISTIC
    atomicAdd(counters_of(counters, blockIdx.y, size).rows + y, 1);
}

// beliefs [M,kColors]: 2 p - 1, p the probability of the object where a colour is seen.
extern "C" __global__ void __launch_bounds__(kBlock)
outline_beliefs(int* __restrict__ counters, int size, float* __restrict__ beliefs) {
    const int color = blockIdx.x * kBlock + threadIdx.x;
    const Counters counted = counters_of(counters, blockIdx.y, size);
    const float here = smoothed_share(counted.histograms, color, max(counted.totals[0], 1)) + 1e-5f;  // FLOOR
    const float beyond = smoothed_share(counted.histograms + kColors, color, max(counted.totals[1], 1)) + 1e-5f;
    beliefs[(long long)blockIdx.y * kColors + color] = (here - beyond) / (here + beyond);
}

// Row and column of line `index`: rows hold `rows` lines each, in the order of their pixels.
__device__ __forceinline__ int2 place_of(const int* rows, const float* border, int size, int index) {
    int y = 0;
    for (; index >= rows[y]; ++y) index -= rows[y];
    const float* row = border + 3ll * y * size;
    int x = 0;
    for (;; ++x)
        if ((row[3 * x] != 0.0f || row[3 * x + 1] != 0.0f) && index-- == 0) return make_int2(x, y);
}

// measured [M,size,size], tolerance [M]: not read unless with_depth; views [M,kViewNumbers]; step, see find_edge; the rest as the arrays of ops.outline.Outlines. One block per hypothesis.
extern "C" __global__ void __launch_bounds__(kLines)
outline_lines(const float* __restrict__ query, const float* __restrict__ depth, const float* __restrict__ measured,
              const float* __restrict__ tolerance, const float* __restrict__ border, int* __restrict__ counters,
              const float* __restrict__ beliefs, const double* __restrict__ views, const float* __restrict__ step,
              int with_depth, int size, float unit, int samples, float* __restrict__ points,
              float* __restrict__ pixels, float* __restrict__ normals, float* __restrict__ weights,
              float* __restrict__ edges, float* __restrict__ verdict) {
    __shared__ float scratch[4 * kLines / 32];
    __shared__ double total[4];
    const int hypothesis = blockIdx.x, area = size * size;
    const long long first = (long long)hypothesis * area, line = (long long)hypothesis * kLines + threadIdx.x;
    const Counters counted = counters_of(counters, hypothesis, size);
    int candidates = 0;
    for (int y = 0; y < size; ++y) candidates += counted.rows[y];
    const bool found = (float)candidates >= 10.0f * unit &&                                            // LEAST_LINES
                       (float)min(counted.totals[0], counted.totals[1]) >= 30.0f * unit * unit;      // LEAST_PIXELS
    const int lines = found ? min(candidates, kLines) : 0, index = threadIdx.x;
    float point[3] = {0.0f, 0.0f, 0.0f}, pixel[2] = {0.0f, 0.0f}, normal[2] = {0.0f, 0.0f}, weight = 0.0f;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // lines in the image, those where the object stands out, contrast
    Edge edge = {0.0f, 0.0f, 0.0f, 0.0f};
    if (index < lines) {
        const int chosen = candidates <= kLines
                               ? index
                               : (2 * index * (candidates - 1) + kLines - 1) / (2 * (kLines - 1));
        const int2 place = place_of(counted.rows, border + 3 * first, size, chosen);
        const float* at = border + 3 * (first + place.y * size + place.x);
        normal[0] = at[0], normal[1] = at[1];
        const float centre[2] = {(float)place.x + at[0] * at[2], (float)place.y + at[1] * at[2]};
        const float z = depth[first + place.y * size + place.x];
        const Seen crop = {query + 3 * first,
                           beliefs + (long long)hypothesis * kColors,
                           depth + first,
                           with_depth ? measured + first : nullptr,
                           tolerance[hypothesis],
                           size};
        float seen[kPlaces];
#pragma unroll
        for (int k = 0; k < kPlaces; ++k) {
            seen[k] = 0.0f;
            for (int j = 0; j < samples; ++j) {
                const float along = unit * ((float)(k - kReach) + ((float)j + 0.5f) / (float)samples - 0.5f);
                seen[k] += belief_at(crop, centre[0] + along * normal[0], centre[1] + along * normal[1], z);
            }
            seen[k] /= (float)samples;
        }
        edge = find_edge(seen, step, unit);
        pixel[0] = centre[0] + edge.shift * normal[0], pixel[1] = centre[1] + edge.shift * normal[1];
        const View view = {views + kViewNumbers * hypothesis};
        view.point(centre[0], centre[1], z, point);
        const float span[2] = {(float)kSpan * unit * normal[0], (float)kSpan * unit * normal[1]};
        if (view.in_image(centre[0] + span[0], centre[1] + span[1]) &&
            view.in_image(centre[0] - span[0], centre[1] - span[1])) {
            weight = weight_of(edge, unit);
            sums[0] = 1.0f;
            sums[1] = edge.contrast_here > 0.4f ? 1.0f : 0.0f;  // STANDS_OUT
            sums[2] = __saturatef(edge.contrast_here);
        }
    }
    for (int i = 0; i < 3; ++i) points[3 * line + i] = point[i];
    for (int i = 0; i < 2; ++i) pixels[2 * line + i] = pixel[i], normals[2 * line + i] = normal[i];
    weights[line] = weight;
    float* out = edges + 4 * line;
    out[0] = edge.shift, out[1] = edge.variance, out[2] = edge.contrast, out[3] = edge.contrast_here;
    block_sums<4>(sums, scratch, total);
    if (threadIdx.x == 0) {
        const double inside = total[0] > 0.0 ? total[0] : 1.0;
        verdict[3 * hypothesis] = (float)lines;
        verdict[3 * hypothesis + 1] = (float)(total[1] / inside);
        verdict[3 * hypothesis + 2] = (float)(total[2] / inside);
    }
}
