#pragma once
__host__ __device__ __forceinline__ int twice(int i) { return 2 * i; }
