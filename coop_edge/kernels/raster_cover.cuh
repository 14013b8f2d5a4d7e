// Coverage in integers: snapped corners, edge functions, the top-left rule, and the 64-bit z-buffer.
#pragma once

#include "raster_view.cuh"

// Samples [u0, u1] x [v0, v1], both ends included.
struct Box {
  int u0, v0, u1, v1;
};

struct Band {  // the frame, and the rows of it that the z-buffer holds, in samples
  int width, height, first_row, rows;
};

// Samples of the z-buffer that come before those of a view.
__device__ __forceinline__ long long samples_before(const Band& band, int view) {
  return (long long)view * band.rows * band.width;
}

__device__ __forceinline__ bool empty(const Box& box) { return box.u0 > box.u1 || box.v0 > box.v1; }

// Floor division by kSubpixels; >> of a negative number is arithmetic on every compiler in use.
__device__ __forceinline__ int floor_sample(int fixed) { return fixed >> 8; }
__device__ __forceinline__ int ceil_sample(int fixed) { return (fixed + kSubpixels - 1) >> 8; }

__device__ __forceinline__ Box sample_box(const Corner& a, const Corner& b, const Corner& c, const Band& band) {
  Box box;
  box.u0 = max(ceil_sample(min(a.x, min(b.x, c.x))), 0);
  box.v0 = max(ceil_sample(min(a.y, min(b.y, c.y))), band.first_row);
  box.u1 = min(floor_sample(max(a.x, max(b.x, c.x))), band.width - 1);
  box.v1 = min(floor_sample(max(a.y, max(b.y, c.y))), band.first_row + band.rows - 1);
  return box;
}

// Three edge functions, non-negative where a sample is covered. Int is int where all differences of corners and samples
// stay below 2^14, else long long.
template <class Int>
struct Edges {
  Int value[3], right[3], down[3];

  // At sample (u, v). False for a triangle without area.
  __device__ __forceinline__ bool set(Corner a, Corner b, Corner c, int u, int v) {
    const Int area = (Int)(b.x - a.x) * (Int)(c.y - a.y) - (Int)(b.y - a.y) * (Int)(c.x - a.x);
    if (area == 0) return false;
    if (area < 0) {
      const Corner swapped = b;
      b = c;
      c = swapped;
    }
    set_edge(0, b, c, u, v);
    set_edge(1, c, a, u, v);
    set_edge(2, a, b, u, v);
    return true;
  }

  __device__ __forceinline__ void set_edge(int i, const Corner& a, const Corner& b, int u, int v) {
    const Int dx = b.x - a.x, dy = b.y - a.y;
    // Centres on an edge count for top and left edges only; elsewhere they are pushed outside by the smallest unit.
    const Int bias = dy < 0 || (dy == 0 && dx > 0) ? 0 : 1;
    value[i] = dx * (Int)(v * kSubpixels - a.y) - dy * (Int)(u * kSubpixels - a.x) - bias;
    right[i] = -dy * kSubpixels;
    down[i] = dx * kSubpixels;
  }

  __device__ __forceinline__ bool covered() const { return (value[0] | value[1] | value[2]) >= 0; }

  __device__ __forceinline__ void move(Int du, Int dv) {
    for (int i = 0; i < 3; ++i) value[i] += du * right[i] + dv * down[i];
  }
};

// z-buffer entries: depth bits in the upper half, triangle in the lower, so that the smallest wins, and at equal depth
// the lower triangle (positive floats are ordered as their bits are). Independent of the order of the writes.
static constexpr unsigned long long kNothing = 0xffffffffffffffffull;

__device__ __forceinline__ void write_sample(unsigned long long* entry, float depth, int triangle) {
  const unsigned long long key = (unsigned long long)__float_as_uint(depth) << 32 | (unsigned)triangle;
  if (key < *entry) atomicMin(entry, key);  // entries only fall: a stale read costs an atomic, never a sample
}

// One thread draws a triangle of few samples.
__device__ __forceinline__ void draw_small(const View& view, const Plane& plane, const Corner* corner, const Box& box,
                                           const Band& band, int triangle, unsigned long long* zbuffer) {
  Edges<int> row;
  if (!row.set(corner[0], corner[1], corner[2], box.u0, box.v0)) return;
  for (int v = box.v0; v <= box.v1; ++v, row.move(0, 1)) {
    unsigned long long* line = zbuffer + (long long)(v - band.first_row) * band.width;
    Edges<int> at = row;
    for (int u = box.u0; u <= box.u1; ++u, at.move(1, 0))
      if (at.covered()) write_sample(line + u, depth_at(plane, ray_through(view, (float)u, (float)v)), triangle);
  }
}

// A warp draws a triangle in tiles of 8 x 4 samples, one per lane.
__device__ __forceinline__ void draw_large(const View& view, const Plane& plane, const Corner& a, const Corner& b,
                                           const Corner& c, const Box& box, const Band& band, int triangle, int lane,
                                           unsigned long long* zbuffer) {
  if (empty(box)) return;
  Edges<long long> row;
  if (!row.set(a, b, c, box.u0 + (lane & 7), box.v0 + (lane >> 3))) return;
  for (int tile_v = box.v0; tile_v <= box.v1; tile_v += 4, row.move(0, 4)) {
    const int v = tile_v + (lane >> 3);
    Edges<long long> at = row;
    for (int u = box.u0 + (lane & 7); u <= box.u1; u += 8, at.move(8, 0))
      if (v <= box.v1 && at.covered())
        write_sample(zbuffer + (long long)(v - band.first_row) * band.width + u,
                     depth_at(plane, ray_through(view, (float)u, (float)v)), triangle);
  }
}
