// Object points of matches with templates: coop_edge/ops/cuda.py holds the launch, ops/base.py the rule.
//
// A thread per match of a query's patch with a chosen template. Every query reads the maps of its own object, by their
// address, so that all objects are done in one launch. Which pixel is the nearest is worked out in FP64, in the order
// of the CPU's operations and never contracted: the CPU's pixel, also where a match lies half-way between two.

static constexpr int kBlock = 128;

struct Maps {  // of the query's object
  const float* __restrict__ points;  // [views,size,size,3]
  long long size;
};

struct Cell {
  int row, column;
};

// Of patch `index` in an image `side` patches wide. The quotient goes towards minus infinity, as Python's.
__device__ __forceinline__ Cell cell_of(int index, int side) {
  const Cell cell = {index / side, index % side};
  return cell.column < 0 ? Cell{cell.row - 1, cell.column + side} : cell;
}

// Pixel coordinate of a match: `offset` patches from the centre of patch `cell`, counted along one axis.
__device__ __forceinline__ double match_pixel(int cell, float offset, int patch) {
  const double patches = __dadd_rn((double)cell + 0.5, (double)offset);
  return __dadd_rn(__dmul_rn((double)patch, patches), -0.5);
}

// What lies outside of the image counts as its border.
__device__ __forceinline__ long long nearest_pixel(double at, long long size) {
  return (long long)min(max(rint(at), 0.0), (double)(size - 1));
}

// probability, index [n,views,count]; offset [n,views,count,2]; chosen [n,k]; maps [n,2], see Maps: address and size.
// points [n,k,count,3]; valid, share [n,k,count].
extern "C" __global__ void __launch_bounds__(kBlock)
    lift_matches(const float* __restrict__ probability, const int* __restrict__ index, const float* __restrict__ offset,
                 const int* __restrict__ chosen, const long long* __restrict__ maps, int n, int views, int k, int count,
                 int patch, float least, float* __restrict__ points, bool* __restrict__ valid,
                 float* __restrict__ share) {
  const long long out = (long long)blockIdx.x * kBlock + threadIdx.x;
  if (out >= (long long)n * k * count) return;
  const int query = (int)(out / count / k), view = chosen[out / count];
  const Maps object = {reinterpret_cast<const float*>(maps[2 * query]), maps[2 * query + 1]};
  const long long match = ((long long)query * views + view) * count + out % count;
  const Cell cell = cell_of(index[match], (int)object.size / patch);
  const double x = match_pixel(cell.column, offset[2 * match], patch);
  const double y = match_pixel(cell.row, offset[2 * match + 1], patch);
  float point[3] = {__int_as_float(0x7fc00000), __int_as_float(0x7fc00000), __int_as_float(0x7fc00000)};  // NaN
  if (isfinite(x) && isfinite(y)) {
    const long long pixel = nearest_pixel(y, object.size) * object.size + nearest_pixel(x, object.size);
    for (int axis = 0; axis < 3; ++axis)
      point[axis] = object.points[3 * (view * object.size * object.size + pixel) + axis];
  }
  const float p = probability[match];
  const bool is_valid = p > least && isfinite(point[0]) && isfinite(point[1]) && isfinite(point[2]);
  for (int axis = 0; axis < 3; ++axis) points[3 * out + axis] = point[axis];
  valid[out] = is_valid;
  share[out] = is_valid ? p : 0.0f;
}
