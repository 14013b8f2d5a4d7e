// Crops of one image as virtual cameras see them: coop_edge/ops/cuda.py holds the launch, ops/sampling.py the rule.
//
// A thread per crop pixel makes all three channels: the mean of samples x samples bilinear samples, rounded to 8 bits
// once, at the end. The result does not depend on what else is in the batch.
#include "warp.cuh"

static constexpr int kBlock = 128;

// image [height,width,3]; crops [n,12], see CropToImage; lens [kLensNumbers]; out [n,3,size,size] in [0, 1].
extern "C" __global__ void __launch_bounds__(kBlock)
    warp_crops(const unsigned char* __restrict__ rgb, int height, int width, const float* __restrict__ crops,
               const float* __restrict__ lens, int n, int size, float* __restrict__ out) {
  const long long pixel = (long long)blockIdx.x * kBlock + threadIdx.x;
  const long long area = (long long)size * size;
  if (pixel >= n * area) return;
  const int index = (int)(pixel / area), place = (int)(pixel % area);
  const Image image = {rgb, height, width};
  const CropToImage crop = load_crop(crops, index);
  const float middle = 0.5f * (float)(size - 1);
  const float x = (float)(place % size) - middle, y = (float)(place / size) - middle;
  float sum[3] = {0.0f, 0.0f, 0.0f};
  const int m = crop.samples;
  if (in_front(crop, x, y) > 0.0f) {  // a pixel is black if its own ray looks backwards
    const float step = 1.0f / (float)m, first = 0.5f * step - 0.5f;
    for (int j = 0; j < m; ++j)
      for (int i = 0; i < m; ++i)
        add_sample(image, crop, lens, x + fmaf((float)i, step, first), y + fmaf((float)j, step, first), sum);
  }
  float* target = out + 3ll * area * index + place;
  for (int channel = 0; channel < 3; ++channel)
    target[channel * area] = rintf(sum[channel] / (float)(m * m)) / 255.0f;
}
