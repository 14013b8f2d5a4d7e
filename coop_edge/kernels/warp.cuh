// Bilinear samples of an image where a crop's pixels lie in it.
#pragma once

#include "lens.cuh"

struct Image {
  const unsigned char* __restrict__ rgb;  // [height,width,3]
  int height, width;
};

// From crop pixels to image pixels, about an anchor. Crop pixel (middle + x, middle + y) has the homogeneous image
// coordinates h [x, y, 1]^T relative to the image pixel (u0, v0); the third is positive in front of the camera.
//
// Behind a lens these are ideal coordinates, and a ray's displacement is added to them: it is small beside the ray, so
// that FP32 holds it as exactly.
//
// Relative coordinates are as small as the crop is in the image, so FP32 leaves 1e-4 pixels of error at most, in images
// of any size: 0.03 grey levels across the sharpest edge there is.
struct CropToImage {
  float h[9];
  int u0, v0, samples;  // samples per side of a crop pixel
};

static constexpr int kCropNumbers = 12;  // 9 of h, u0, v0, samples; the last three are integers, exact in FP32

__device__ __forceinline__ CropToImage load_crop(const float* __restrict__ crops, int index) {
  const float* c = crops + (long long)index * kCropNumbers;
  CropToImage crop;
  for (int i = 0; i < 9; ++i) crop.h[i] = c[i];
  crop.u0 = (int)c[9], crop.v0 = (int)c[10], crop.samples = (int)c[11];
  return crop;
}

__device__ __forceinline__ float in_front(const CropToImage& crop, float x, float y) {
  return fmaf(crop.h[6], x, fmaf(crop.h[7], y, crop.h[8]));
}

// Adds weight times the image's pixel (u, v); black outside.
__device__ __forceinline__ void add_pixel(const Image& image, int u, int v, float weight, float* sum) {
  if (u < 0 || u >= image.width || v < 0 || v >= image.height) return;
  const unsigned char* pixel = image.rgb + 3 * ((long long)v * image.width + u);
  for (int channel = 0; channel < 3; ++channel) sum[channel] = fmaf(weight, (float)pixel[channel], sum[channel]);
}

// Adds the image at crop pixel (middle + x, middle + y), bilinear, 0..255; black outside, behind the camera and beyond
// the limit of the lens [kLensNumbers], whose first number is 0 where there is no distortion.
__device__ __forceinline__ void add_sample(const Image& image, const CropToImage& crop, const float* __restrict__ lens,
                                           float x, float y, float* sum) {
  const float w = in_front(crop, x, y);
  if (!(w > 0.0f)) return;
  float u = fmaf(crop.h[0], x, fmaf(crop.h[1], y, crop.h[2])) / w;
  float v = fmaf(crop.h[3], x, fmaf(crop.h[4], y, crop.h[5])) / w;
  if (lens[0] != 0.0f) {
    float dx, dy;
    const float ray_x = (u + ((float)crop.u0 - lens[4])) / lens[2], ray_y = (v + ((float)crop.v0 - lens[5])) / lens[3];
    if (!coop::displacement(lens, ray_x, ray_y, &dx, &dy)) return;
    u = fmaf(lens[2], dx, u), v = fmaf(lens[3], dy, v);
  }
  // Where no neighbour is a pixel of the image; also what no integer can hold, and NaN.
  if (!(u > (float)(-1 - crop.u0) && u < (float)(image.width - crop.u0) && v > (float)(-1 - crop.v0) &&
        v < (float)(image.height - crop.v0)))
    return;
  const float left = floorf(u), top = floorf(v), a = u - left, b = v - top;
  const int column = crop.u0 + (int)left, row = crop.v0 + (int)top;
  add_pixel(image, column, row, (1.0f - a) * (1.0f - b), sum);
  add_pixel(image, column + 1, row, a * (1.0f - b), sum);
  add_pixel(image, column, row + 1, (1.0f - a) * b, sum);
  add_pixel(image, column + 1, row + 1, a * b, sum);
}
