// Clipping by the near plane and the guard band (Sutherland and Hodgman, Reentrant polygon clipping, 1974).
#pragma once

#include "raster_view.cuh"

static constexpr int kMaxPolygon = 8;  // a triangle cut by five planes

// Signed distance (any positive scale) to the near plane (0) or a side of the guard band (1 to 4); inside is >= 0.
__device__ __forceinline__ float clip_distance(const View& view, int plane, float3 p) {
  if (plane == 0) return p.z - kNear;
  const float u = fmaf(view.fx, p.x, fmaf(view.skew, p.y, view.cx * p.z)), v = fmaf(view.fy, p.y, view.cy * p.z);
  const float h = plane <= 2 ? u : v;
  return plane & 1 ? kGuard * p.z - h : kGuard * p.z + h;
}

// The cut of an edge, computed from its inner end: two triangles that share the edge get the same point.
__device__ __forceinline__ float3 clip_edge(float3 inside, float3 outside, float distance_in, float distance_out) {
  const float s = distance_in / (distance_in - distance_out);
  return make_float3(fmaf(s, outside.x - inside.x, inside.x), fmaf(s, outside.y - inside.y, inside.y),
                     fmaf(s, outside.z - inside.z, inside.z));
}

// Clips a triangle (camera coordinates) and projects it: a convex polygon of up to kMaxPolygon snapped corners.
// Returns their number, 0 where nothing is left.
__device__ __noinline__ int clip_triangle(const View& view, const float3* triangle, Corner* corners) {
  float3 polygon[2][kMaxPolygon + 1];
  for (int i = 0; i < 3; ++i) polygon[0][i] = triangle[i];
  int n = 3, source = 0;
  for (int plane = 0; plane < 5; ++plane) {
    const float3* from = polygon[source];
    float3* to = polygon[1 - source];
    int m = 0;
    for (int i = 0; i < n; ++i) {
      const float3 a = from[i], b = from[i + 1 < n ? i + 1 : 0];
      const float da = clip_distance(view, plane, a), db = clip_distance(view, plane, b);
      // A convex polygon gains one corner per plane; the bound holds even where rounding makes it slightly concave.
      if (da >= 0.0f && m < kMaxPolygon) to[m++] = a;
      if ((da >= 0.0f) != (db >= 0.0f) && m < kMaxPolygon)
        to[m++] = da >= 0.0f ? clip_edge(a, b, da, db) : clip_edge(b, a, db, da);
    }
    n = m;
    source = 1 - source;
    if (n < 3) return 0;
  }
  for (int i = 0; i < n; ++i) {
    float u, v;
    project(view, polygon[source][i], &u, &v);
    if (!(fabsf(u) <= 2.0f * kGuard && fabsf(v) <= 2.0f * kGuard)) return 0;  // rounding aside, only NaN comes here
    corners[i] = {snap(u), snap(v), 0};
  }
  return n;
}
