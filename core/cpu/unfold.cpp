// Sliding windows: what turns a convolution into a matrix product.
#include <algorithm>

#include "weft/core/cpu/parallel.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

struct Windows {
  int64_t batch, channels, height, width, kernel_h, kernel_w, out_h, out_w, stride, padding_h, padding_w;

  Windows(const Tensor& image, int64_t kh, int64_t kw, int64_t step, int64_t ph, int64_t pw)
      : batch(image.shape()[0]),
        channels(image.shape()[1]),
        height(image.shape()[2]),
        width(image.shape()[3]),
        kernel_h(kh),
        kernel_w(kw),
        out_h((height + 2 * ph - kh) / step + 1),
        out_w((width + 2 * pw - kw) / step + 1),
        stride(step),
        padding_h(ph),
        padding_w(pw) {}

  // Calls f(column row, image row or -1, kernel column) for each row of windows of one plane: the row of unfolded values that starts at
  // column_row * out_w reads image row `y` from kernel column `kx` on.
  template <class F>
  void for_rows(int64_t plane, F&& f) const {
    for (int64_t ky = 0; ky < kernel_h; ++ky) {
      for (int64_t kx = 0; kx < kernel_w; ++kx) {
        const int64_t first = ((plane * kernel_h + ky) * kernel_w + kx) * out_h;
        for (int64_t oy = 0; oy < out_h; ++oy) {
          const int64_t y = oy * stride + ky - padding_h;
          f(first + oy, y >= 0 && y < height ? y : -1, kx);
        }
      }
    }
  }
  int64_t grain() const { return std::max<int64_t>(1, (int64_t{1} << 14) / std::max<int64_t>(1, kernel_h * kernel_w * out_h * out_w)); }
};

}  // namespace

void unfold(Tensor& y, const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h, int64_t padding_w) {
  const Windows w(x, kernel_h, kernel_w, stride, padding_h, padding_w);
  dispatch_float(x.dtype(), "unfold", [&]<class T>() {
    T* out = y.data<T>();
    const T* image = x.data<T>();
    parallel_for(w.batch * w.channels, w.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        w.for_rows(plane, [&](int64_t row, int64_t image_row, int64_t kx) {
          for (int64_t ox = 0; ox < w.out_w; ++ox) {
            const int64_t column = ox * w.stride + kx - w.padding_w;
            const bool inside = image_row >= 0 && column >= 0 && column < w.width;
            out[row * w.out_w + ox] = inside ? image[(plane * w.height + image_row) * w.width + column] : T(0);
          }
        });
      }
    });
  });
}

void unfold_backward(Tensor& dx, const Tensor& dy, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h,
                     int64_t padding_w) {
  fill(dx, 0);
  const Windows w(dx, kernel_h, kernel_w, stride, padding_h, padding_w);
  dispatch_float(dx.dtype(), "unfold", [&]<class T>() {
    T* image = dx.data<T>();
    const T* in = dy.data<T>();
    parallel_for(w.batch * w.channels, w.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {  // each plane of dx belongs to one thread: a fixed order of additions
        w.for_rows(plane, [&](int64_t row, int64_t image_row, int64_t kx) {
          if (image_row < 0) return;
          for (int64_t ox = 0; ox < w.out_w; ++ox) {
            const int64_t column = ox * w.stride + kx - w.padding_w;
            if (column >= 0 && column < w.width) image[(plane * w.height + image_row) * w.width + column] += in[row * w.out_w + ox];
          }
        });
      }
    });
  });
}

}  // namespace weft::cpu
