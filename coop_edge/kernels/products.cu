// Inner products of every row of one matrix with every row of another, group by group: coop_edge/ops/cuda.py holds the
// launch.
//
// A block works out kRows x kColumns of them, a thread each, from pieces of kPiece numbers that all its threads share.
// A product's sum goes over its own numbers in one order, so it does not depend on what else is worked out.

static constexpr int kRows = 32, kColumns = 8, kPiece = 64;
static constexpr int kBlock = kRows * kColumns;
static constexpr int kStride = kPiece + 1;  // so that threads of a warp, each in a row of its own, read other banks

// Copies the piece from `first` on of this block's group, of `rows` rows from row `begin` on; 0 where the matrix
// [count,groups,length] has none.
__device__ __forceinline__ void load_piece(const float* __restrict__ matrix, int count, int length, int begin, int rows,
                                           int first, float* piece) {
  for (int i = threadIdx.x; i < rows * kPiece; i += kBlock) {
    const int row = begin + i / kPiece, at = first + i % kPiece;
    const bool inside = row < count && at < length;
    piece[i / kPiece * kStride + i % kPiece] = inside ? matrix[((long long)row * gridDim.z + blockIdx.z) * length + at] : 0.0f;
  }
}

// a [n,groups,length]; b [m,groups,length]; out [groups,n,m]. Grid: rows of a over kRows, rows of b over kColumns, groups.
extern "C" __global__ void __launch_bounds__(kBlock)
    inner_products(const float* __restrict__ a, const float* __restrict__ b, int n, int m, int length,
                   float* __restrict__ out) {
  __shared__ float a_piece[kRows * kStride], b_piece[kColumns * kStride];
  const int begin = blockIdx.x * kRows, column_begin = blockIdx.y * kColumns;
  const int row = threadIdx.x % kRows, column = threadIdx.x / kRows;
  float sum = 0.0f;
  for (int first = 0; first < length; first += kPiece) {
    load_piece(a, n, length, begin, kRows, first, a_piece);
    load_piece(b, m, length, column_begin, kColumns, first, b_piece);
    __syncthreads();
    float part = 0.0f;
    for (int i = 0; i < kPiece; ++i) part += a_piece[row * kStride + i] * b_piece[column * kStride + i];
    sum += part;
    __syncthreads();
  }
  if (begin + row < n && column_begin + column < m) {
    out[((long long)blockIdx.z * n + begin + row) * m + column_begin + column] = sum;
  }
}
