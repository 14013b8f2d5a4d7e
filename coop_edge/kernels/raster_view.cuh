// A view, and what it does to points and triangles. The rules are those of coop_edge/render/cpu.py, in FP32.
//
// "Sample" means a pixel of the grid that is `supersample` times as fine; its centre is at integer (u, v).
#pragma once

struct View {
  float r[9];                                // rotation, row by row
  float3 t;                                  // camera from object, metres, for vertices stored about their centre
  float fx, skew, cx, fy, cy, inverse_fx, inverse_fy;  // intrinsics, samples
  float3 centre;                             // what to add to a stored vertex to get a point in the object's frame
};
static constexpr int kViewFloats = 22;  // floats per view in the buffer, in this order

static constexpr float kNear = 1e-3f;          // metres; render/base.py NEAR
static constexpr float kGuard = 1048576.0f;    // samples: what projects further away is clipped
static constexpr int kSubpixels = 256;         // fixed-point units per sample

enum Outside { kLeft = 1, kRight = 2, kAbove = 4, kBelow = 8, kBehind = 16, kClip = 32 };

__device__ __forceinline__ float3 operator-(float3 a, float3 b) { return make_float3(a.x - b.x, a.y - b.y, a.z - b.z); }

__device__ __forceinline__ float dot(float3 a, float3 b) { return fmaf(a.x, b.x, fmaf(a.y, b.y, a.z * b.z)); }

__device__ __forceinline__ float3 cross(float3 a, float3 b) {
  return make_float3(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}

__device__ __forceinline__ View load_view(const float* views, int index) {
  const float* p = views + (long long)index * kViewFloats;
  View view;
  for (int i = 0; i < 9; ++i) view.r[i] = __ldg(p + i);
  view.t = make_float3(__ldg(p + 9), __ldg(p + 10), __ldg(p + 11));
  view.fx = __ldg(p + 12), view.skew = __ldg(p + 13), view.cx = __ldg(p + 14);
  view.fy = __ldg(p + 15), view.cy = __ldg(p + 16);
  view.inverse_fx = __ldg(p + 17), view.inverse_fy = __ldg(p + 18);
  view.centre = make_float3(__ldg(p + 19), __ldg(p + 20), __ldg(p + 21));
  return view;
}

__device__ __forceinline__ float3 rotate(const View& view, float3 p) {
  return make_float3(fmaf(view.r[0], p.x, fmaf(view.r[1], p.y, view.r[2] * p.z)),
                     fmaf(view.r[3], p.x, fmaf(view.r[4], p.y, view.r[5] * p.z)),
                     fmaf(view.r[6], p.x, fmaf(view.r[7], p.y, view.r[8] * p.z)));
}

// Spelt out in fmaf: neighbours must get bit-identical corners, so nothing is left for the compiler to contract.
__device__ __forceinline__ float3 to_camera(const View& view, float3 p) {
  return make_float3(fmaf(view.r[0], p.x, fmaf(view.r[1], p.y, fmaf(view.r[2], p.z, view.t.x))),
                     fmaf(view.r[3], p.x, fmaf(view.r[4], p.y, fmaf(view.r[5], p.z, view.t.y))),
                     fmaf(view.r[6], p.x, fmaf(view.r[7], p.y, fmaf(view.r[8], p.z, view.t.z))));
}

// The ray (x, y, 1) through a point of the image, in samples.
__device__ __forceinline__ float3 ray_through(const View& view, float u, float v) {
  const float y = (v - view.cy) * view.inverse_fy;
  return make_float3(fmaf(-view.skew, y, u - view.cx) * view.inverse_fx, y, 1.0f);
}

struct Corner {
  int x, y;  // 1/256 samples; meaningless where `outside` has kClip
  int outside;
};

__device__ __forceinline__ int snap(float samples) { return __float2int_rd(fmaf(samples, (float)kSubpixels, 0.5f)); }

__device__ __forceinline__ bool project(const View& view, float3 p, float* u, float* v) {
  const float x = p.x / p.z, y = p.y / p.z;
  *u = fmaf(view.fx, x, fmaf(view.skew, y, view.cx));
  *v = fmaf(view.fy, y, view.cy);
  return fabsf(*u) <= kGuard && fabsf(*v) <= kGuard;  // false for NaN
}

__device__ __forceinline__ Corner project_corner(const View& view, float3 p, int width, int height) {
  Corner corner = {0, 0, 0};
  // Half-space tests on homogeneous coordinates hold in front of the camera and behind it alike; one sample of slack,
  // because snapping can move a corner towards the frame.
  const float u = fmaf(view.fx, p.x, fmaf(view.skew, p.y, view.cx * p.z)), v = fmaf(view.fy, p.y, view.cy * p.z);
  if (u < -p.z) corner.outside |= kLeft;
  if (u > (float)width * p.z) corner.outside |= kRight;
  if (v < -p.z) corner.outside |= kAbove;
  if (v > (float)height * p.z) corner.outside |= kBelow;
  if (!(p.z >= kNear)) {
    corner.outside |= kBehind | kClip;
    return corner;
  }
  float pu, pv;
  if (project(view, p, &pu, &pv)) {
    corner.x = snap(pu);
    corner.y = snap(pv);
  } else {
    corner.outside |= kClip;
  }
  return corner;
}

// A triangle's plane n . x = d in camera axes, from its uncut corners.
//
// The edges are rotated from the object's frame, where they are exact, instead of being differences of camera points,
// which in FP32 lose what the object's distance costs. `reference` is the corner nearest to the camera.
struct Plane {
  float3 edge1, edge2, normal, reference;
  int first;  // the reference corner: 0, 1 or 2; edge1 leads to corner first + 1, edge2 to first + 2 (modulo 3)
  float d, nearest, farthest;
};

__device__ __forceinline__ Plane make_plane(const View& view, const float3* object, const float3* camera) {
  Plane plane;
  const float d0 = dot(camera[0], camera[0]), d1 = dot(camera[1], camera[1]), d2 = dot(camera[2], camera[2]);
  plane.first = d0 <= d1 ? (d0 <= d2 ? 0 : 2) : (d1 <= d2 ? 1 : 2);
  const bool a = plane.first == 0, b = plane.first == 1;
  const float3 origin = a ? object[0] : b ? object[1] : object[2];
  plane.reference = a ? camera[0] : b ? camera[1] : camera[2];
  plane.edge1 = rotate(view, (a ? object[1] : b ? object[2] : object[0]) - origin);
  plane.edge2 = rotate(view, (a ? object[2] : b ? object[0] : object[1]) - origin);
  plane.normal = cross(plane.edge1, plane.edge2);
  plane.d = dot(plane.normal, plane.reference);
  plane.nearest = max(kNear, min(camera[0].z, min(camera[1].z, camera[2].z)));
  plane.farthest = max(camera[0].z, max(camera[1].z, camera[2].z));
  return plane;
}

// Depth where the ray (x, y, 1) meets the plane, limited to the range of the corners: snapping moves an edge by up to
// 1/512 sample, so a covered sample may lie just off the triangle.
__device__ __forceinline__ float depth_at(const Plane& plane, float3 ray) {
  const float inverse = dot(plane.normal, ray) / plane.d;
  return inverse > 0.0f ? min(max(1.0f / inverse, plane.nearest), plane.farthest) : plane.farthest;
}
