// Rasteriser of many views of many meshes; coop_edge/render/raster_kernels.py launches it.
// The structures passed by value are its NamedTuples of the same names.
//
// 1. raster_small: a thread per (view, triangle) draws what is small, and queues the rest in bands of rows.
// 2. raster_large: a warp per queued band.
// 3. shade: a thread per pixel turns the z-buffer's triangle ids into colours, depth, ids and object points.
//
// What a kernel only reads, it reads by __ldg: of a structure's pointers the compiler cannot tell.
#include "raster_clip.cuh"
#include "raster_cover.cuh"
#include "raster_shade.cuh"

static constexpr int kBlock = 128;
static constexpr int kSmallExtent = 32;      // samples: within it, 32-bit edge functions cannot overflow
static constexpr int kSmallArea = 64;        // samples of its box that one thread draws
static constexpr int kBandSamples = 4096;    // samples of its box that one warp draws

// Views of meshes that lie in joint buffers.
struct Scene {
  const float4* vertices;  // w unused
  const int4* faces;       // three vertices, texture or -1
  const float* views;      // kViewFloats each
  const int4* ranges;      // per view: first face, faces, first block of raster_small, unused
  int n_views;
};

struct Buffer {
  unsigned long long* zbuffer;  // [views][rows][width], kNothing at first
  int4* queue;                  // view, triangle, first row, last row
  int capacity;
  unsigned long long* queued;   // 0 at first
};

struct Triangle {
  float3 object[3], camera[3];
  Corner corner[3];
};

__device__ __forceinline__ float3 load_vertex(const float4* vertices, int index) {
  const float4 v = __ldg(vertices + index);
  return make_float3(v.x, v.y, v.z);
}

__device__ __forceinline__ void load_triangle(const View& view, const float4* vertices, int4 face,
                                              Triangle* triangle) {
  triangle->object[0] = load_vertex(vertices, face.x);
  triangle->object[1] = load_vertex(vertices, face.y);
  triangle->object[2] = load_vertex(vertices, face.z);
  for (int i = 0; i < 3; ++i) triangle->camera[i] = to_camera(view, triangle->object[i]);
}

// Projects the corners; returns the box of samples that the triangle may cover, empty where it is out of sight.
__device__ __forceinline__ Box project_triangle(const View& view, const Band& band, Triangle* triangle,
                                                bool* clip) {
  int all = kLeft | kRight | kAbove | kBelow | kBehind, any = 0;
  for (int i = 0; i < 3; ++i) {
    triangle->corner[i] = project_corner(view, triangle->camera[i], band.width, band.height);
    all &= triangle->corner[i].outside;
    any |= triangle->corner[i].outside;
  }
  *clip = (any & kClip) != 0;
  if (all) return {0, 0, -1, -1};
  if (*clip) return {0, band.first_row, band.width - 1, band.first_row + band.rows - 1};
  return sample_box(triangle->corner[0], triangle->corner[1], triangle->corner[2], band);
}

__device__ __forceinline__ bool is_small(const Corner* corner, const Box& box) {
  const int x = max(corner[0].x, max(corner[1].x, corner[2].x)) - min(corner[0].x, min(corner[1].x, corner[2].x));
  const int y = max(corner[0].y, max(corner[1].y, corner[2].y)) - min(corner[0].y, min(corner[1].y, corner[2].y));
  return max(x, y) <= kSmallExtent * kSubpixels && (box.u1 - box.u0 + 1) * (box.v1 - box.v0 + 1) <= kSmallArea;
}

// Rows of a box that make one piece of work for a warp; a multiple of the tile's height.
__device__ __forceinline__ int band_rows(const Box& box) {
  return max(kBandSamples / (box.u1 - box.u0 + 1) / 4 * 4, 4);
}

// The view whose blocks of raster_small contain `block`: the last one that starts at or before it.
__device__ __forceinline__ int find_view(const Scene& scene, int block) {
  int low = 0, high = scene.n_views - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (__ldg(&scene.ranges[middle].z) <= block) low = middle;
    else high = middle - 1;
  }
  return low;
}

extern "C" __global__ void __launch_bounds__(kBlock) raster_small(Scene scene, Band band, Buffer buffer) {
  const int index = find_view(scene, (int)blockIdx.x);
  const int4 range = __ldg(scene.ranges + index);
  const int id = ((int)blockIdx.x - range.z) * kBlock + (int)threadIdx.x;
  if (id >= range.y) return;
  const View view = load_view(scene.views, index);
  Triangle triangle;
  load_triangle(view, scene.vertices, __ldg(scene.faces + range.x + id), &triangle);
  bool clip;
  const Box box = project_triangle(view, band, &triangle, &clip);
  if (empty(box)) return;
  if (!clip && is_small(triangle.corner, box)) {
    const Plane plane = make_plane(view, triangle.object, triangle.camera);
    if (plane.d != 0.0f)
      draw_small(view, plane, triangle.corner, box, band, id, buffer.zbuffer + samples_before(band, index));
    return;
  }
  const int step = band_rows(box), pieces = (box.v1 - box.v0) / step + 1;
  const unsigned long long slot = atomicAdd(buffer.queued, (unsigned long long)pieces);
  // What finds no room is drawn by raster_large from the triangles themselves.
  for (int i = 0; i < pieces && slot + i < (unsigned long long)buffer.capacity; ++i)
    buffer.queue[slot + i] = make_int4(index, id, box.v0 + i * step, box.v0 + (i + 1) * step - 1);
}

// Draws the rows of one triangle between `from` and `to`; all lanes of a warp together.
__device__ __forceinline__ void draw_rows(const View& view, Triangle& triangle, const Band& band, int id, int from,
                                          int to, int lane, unsigned long long* zbuffer) {
  bool clip;
  const Box sight = project_triangle(view, band, &triangle, &clip);
  const Plane plane = make_plane(view, triangle.object, triangle.camera);
  if (empty(sight) || plane.d == 0.0f) return;
  Corner polygon[kMaxPolygon];
  int n = 3;
  if (clip) {
    n = clip_triangle(view, triangle.camera, polygon);
  } else {
    for (int i = 0; i < 3; ++i) polygon[i] = triangle.corner[i];
  }
  for (int i = 1; i + 1 < n; ++i) {  // a fan about the first corner
    Box box = sample_box(polygon[0], polygon[i], polygon[i + 1], band);
    box.v0 = max(box.v0, from);
    box.v1 = min(box.v1, to);
    draw_large(view, plane, polygon[0], polygon[i], polygon[i + 1], box, band, id, lane, zbuffer);
  }
}

extern "C" __global__ void __launch_bounds__(kBlock) raster_large(Scene scene, Band band, Buffer buffer) {
  const int warp = ((int)blockIdx.x * kBlock + (int)threadIdx.x) / warpSize, lane = (int)threadIdx.x % warpSize;
  const int warps = (int)gridDim.x * kBlock / warpSize;
  const unsigned long long count = __ldg(buffer.queued);
  if (count <= (unsigned long long)buffer.capacity) {
    for (int i = warp; i < (int)count; i += warps) {
      const int4 work = __ldg(buffer.queue + i);
      const View view = load_view(scene.views, work.x);
      Triangle triangle;
      load_triangle(view, scene.vertices, __ldg(scene.faces + __ldg(&scene.ranges[work.x].x) + work.y), &triangle);
      draw_rows(view, triangle, band, work.y, work.z, work.w, lane, buffer.zbuffer + samples_before(band, work.x));
    }
    return;
  }
  // The queue was too short: go through all triangles again. Those already drawn change nothing.
  for (int index = 0; index < scene.n_views; ++index) {
    const int4 range = __ldg(scene.ranges + index);
    const View view = load_view(scene.views, index);
    for (int id = warp; id < range.y; id += warps) {
      Triangle triangle;
      load_triangle(view, scene.vertices, __ldg(scene.faces + range.x + id), &triangle);
      draw_rows(view, triangle, band, id, band.first_row, band.first_row + band.rows - 1, lane,
                buffer.zbuffer + samples_before(band, index));
    }
  }
}

struct Surfaces {  // the joint buffers of all meshes' colours
  const uchar4* corner_colors;  // 3 per face
  const float2* corner_uv;      // 3 per face
  const uchar4* texels;
  const int4* textures;         // first texel, height, width, unused
};

struct Light {
  float ambient, diffuse;
};

// What `shade` writes, for views from `first_view` on: rows first_row / samples .. of `height` rows per view.
struct Image {
  int samples, first_view, height;
  unsigned char* rgb;
  float* depth;
  int* triangle_id;
  float* points;  // may be null
};

// Albedo at the barycentric coordinates `w` of a face.
__device__ __forceinline__ Texel albedo(const Surfaces& surfaces, int face, int texture, const float* w) {
  if (texture < 0) {
    const uchar4* c = surfaces.corner_colors + 3ll * face;
    return blend(w[0], __ldg(c), w[1], __ldg(c + 1), w[2], __ldg(c + 2));
  }
  const float2* uv = surfaces.corner_uv + 3ll * face;
  const float2 a = __ldg(uv), b = __ldg(uv + 1), c = __ldg(uv + 2);
  return bilinear(fmaf(w[0], a.x, fmaf(w[1], b.x, w[2] * c.x)), fmaf(w[0], a.y, fmaf(w[1], b.y, w[2] * c.y)),
                  surfaces.texels, __ldg(surfaces.textures + texture));
}

// The surface point in the object's frame, from the face itself: exact at any distance of the camera.
__device__ __forceinline__ void write_point(const View& view, const float3* corner, const float* w, float* point) {
  const float3 e1 = corner[1] - corner[0], e2 = corner[2] - corner[0];
  point[0] = fmaf(w[1], e1.x, fmaf(w[2], e2.x, corner[0].x)) + view.centre.x;
  point[1] = fmaf(w[1], e1.y, fmaf(w[2], e2.y, corner[0].y)) + view.centre.y;
  point[2] = fmaf(w[1], e1.z, fmaf(w[2], e2.z, corner[0].z)) + view.centre.z;
}

extern "C" __global__ void __launch_bounds__(kBlock)
    shade(Scene scene, Band band, const unsigned long long* zbuffer, Surfaces surfaces, Light light, Image image) {
  const int samples = image.samples;
  const int columns = band.width / samples, lines = band.rows / samples;
  const long long pixel = (long long)blockIdx.x * kBlock + threadIdx.x;
  if (pixel >= (long long)scene.n_views * lines * columns) return;
  const int column = (int)(pixel % columns), line = (int)(pixel / columns % lines);
  const int index = (int)(pixel / columns / lines);
  const View view = load_view(scene.views, index);
  const int first_face = __ldg(&scene.ranges[index].x);
  const int row = band.first_row / samples + line;
  const long long out = ((long long)(image.first_view + index) * image.height + row) * columns + column;
  Texel sum = {0.0f, 0.0f, 0.0f};
  unsigned long long middle = kNothing;
  for (int sample = 0; sample < samples * samples; ++sample) {
    const int u = column * samples + sample % samples, v = line * samples + sample / samples;
    const unsigned long long key = __ldg(zbuffer + samples_before(band, index) + (long long)v * band.width + u);
    const bool is_middle = sample == samples * samples / 2;
    if (is_middle) middle = key;
    if (key == kNothing) continue;
    const int face = first_face + (int)(unsigned)key;
    const int4 indices = __ldg(scene.faces + face);
    Triangle triangle;
    load_triangle(view, scene.vertices, indices, &triangle);
    const Plane plane = make_plane(view, triangle.object, triangle.camera);
    const float3 ray = ray_through(view, (float)u, (float)(band.first_row + v));
    float weights[3];
    barycentric(plane, ray, weights);
    const Texel color = albedo(surfaces, face, indices.w, weights);
    const float lit = light_on(plane, ray, light.ambient, light.diffuse);
    sum.r += min(color.r * lit, 255.0f);
    sum.g += min(color.g * lit, 255.0f);
    sum.b += min(color.b * lit, 255.0f);
    if (is_middle && image.points) write_point(view, triangle.object, weights, image.points + 3 * out);
  }
  const float share = 1.0f / (float)(samples * samples);
  image.rgb[3 * out] = (unsigned char)fmaf(sum.r, share, 0.5f);
  image.rgb[3 * out + 1] = (unsigned char)fmaf(sum.g, share, 0.5f);
  image.rgb[3 * out + 2] = (unsigned char)fmaf(sum.b, share, 0.5f);
  image.depth[out] = middle == kNothing ? 0.0f : __uint_as_float((unsigned)(middle >> 32));
  image.triangle_id[out] = middle == kNothing ? -1 : (int)(unsigned)middle;
  if (image.points && middle == kNothing)
    for (int axis = 0; axis < 3; ++axis) image.points[3 * out + axis] = __int_as_float(0x7fc00000);  // NaN
}
