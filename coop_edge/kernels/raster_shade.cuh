// The colour and the surface point of a sample, from its triangle.
#pragma once

#include "raster_view.cuh"

struct Texel {
  float r, g, b;
};

__device__ __forceinline__ Texel blend(float a, uchar4 x, float b, uchar4 y, float c, uchar4 z) {
  return {fmaf(a, (float)x.x, fmaf(b, (float)y.x, c * (float)z.x)),
          fmaf(a, (float)x.y, fmaf(b, (float)y.y, c * (float)z.y)),
          fmaf(a, (float)x.z, fmaf(b, (float)y.z, c * (float)z.z))};
}

// Barycentric coordinates of the point where the ray (x, y, 1) meets the triangle, limited to the triangle.
//
// With corner p and edges e1, e2 the point is p + w1 e1 + w2 e2 = z (x, y, 1). Elimination of z leaves two equations:
// w1 (e1.x - e1.z x) + w2 (e2.x - e2.z x) = p.z x - p.x, and the same in y. All terms are of the triangle's size, so
// FP32 holds at any distance (triple products of camera points do not).
__device__ __forceinline__ void barycentric(const Plane& plane, float3 ray, float* weights) {
  const float3 e1 = plane.edge1, e2 = plane.edge2, p = plane.reference;
  const float a = fmaf(-e1.z, ray.x, e1.x), b = fmaf(-e2.z, ray.x, e2.x), right_x = fmaf(p.z, ray.x, -p.x);
  const float c = fmaf(-e1.z, ray.y, e1.y), d = fmaf(-e2.z, ray.y, e2.y), right_y = fmaf(p.z, ray.y, -p.y);
  const float inverse = 1.0f / (a * d - b * c);
  const float s = (right_x * d - right_y * b) * inverse, t = (right_y * a - right_x * c) * inverse;
  float w0 = max(1.0f - s - t, 0.0f), w1 = max(s, 0.0f), w2 = max(t, 0.0f);  // max(NaN, 0) is 0
  const float total = w0 + w1 + w2;
  if (total > 0.0f && total < 1e30f) {
    w0 /= total, w1 /= total, w2 /= total;
  } else {  // edge-on: any corner is as good
    w0 = 1.0f, w1 = 0.0f, w2 = 0.0f;
  }
  weights[0] = plane.first == 0 ? w0 : plane.first == 1 ? w2 : w1;
  weights[1] = plane.first == 0 ? w1 : plane.first == 1 ? w0 : w2;
  weights[2] = plane.first == 0 ? w2 : plane.first == 1 ? w1 : w0;
}

// A texture that repeats; (0, 0) is the bottom left corner, texel centres lie at half-integers.
// `where` = first texel, height, width.
__device__ __forceinline__ Texel bilinear(float s, float t, const uchar4* texels, int4 where) {
  const float x = fmaf(s - floorf(s), (float)where.z, -0.5f);
  const float y = fmaf(1.0f - (t - floorf(t)), (float)where.y, -0.5f);
  int x0 = (int)floorf(x), y0 = (int)floorf(y);
  const float fx = x - (float)x0, fy = y - (float)y0;
  // x lies in [-0.5, width - 0.5], so one step of wrapping is enough.
  const int x1 = x0 + 1 < where.z ? x0 + 1 : 0, y1 = y0 + 1 < where.y ? y0 + 1 : 0;
  x0 = x0 >= 0 ? x0 : where.z - 1;
  y0 = y0 >= 0 ? y0 : where.y - 1;
  const uchar4* row0 = texels + where.x + (long long)y0 * where.z;
  const uchar4* row1 = texels + where.x + (long long)y1 * where.z;
  const uchar4 a = __ldg(row0 + x0), b = __ldg(row0 + x1), c = __ldg(row1 + x0), d = __ldg(row1 + x1);
  const float wa = (1.0f - fx) * (1.0f - fy), wb = fx * (1.0f - fy), wc = (1.0f - fx) * fy, wd = fx * fy;
  const Texel most = blend(wa, a, wb, b, wc, c);
  return {fmaf(wd, (float)d.x, most.r), fmaf(wd, (float)d.y, most.g), fmaf(wd, (float)d.z, most.b)};
}

// ambient + diffuse |n . v|, for a light at the camera.
__device__ __forceinline__ float light_on(const Plane& plane, float3 ray, float ambient, float diffuse) {
  const float facing = fabsf(dot(plane.normal, ray)) / sqrtf(dot(plane.normal, plane.normal) * dot(ray, ray));
  return fmaf(diffuse, facing <= 1.0f ? facing : 1.0f, ambient);
}
