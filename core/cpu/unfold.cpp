// Sliding windows: what turns a convolution into a matrix product.
#include <algorithm>

#include "weft/core/cpu/parallel.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

struct Windows {
  int64_t planes, height, width, kernel_h, kernel_w, stride, padding_h, padding_w;

  Windows(const Tensor& image, int64_t kh, int64_t kw, int64_t step, int64_t ph, int64_t pw)
      : planes(image.shape()[0] * image.shape()[1]),
        height(image.shape()[2]),
        width(image.shape()[3]),
        kernel_h(kh),
        kernel_w(kw),
        stride(step),
        padding_h(ph),
        padding_w(pw) {}

  int64_t out_h() const { return (height + 2 * padding_h - kernel_h) / stride + 1; }
  int64_t out_w() const { return (width + 2 * padding_w - kernel_w) / stride + 1; }

  // Where one row of unfolded values comes from: values [first, last) are elements source, source + stride, ... of the plane, the others
  // lie in the padding.
  struct Row {
    int64_t first, last, source;
  };

  // Calls f(row of values, Row) for every kernel element and output row of a plane.
  template <class F>
  void for_rows(int64_t plane, F&& f) const {
    const auto rounded_up = [&](int64_t a) { return a <= 0 ? 0 : (a + stride - 1) / stride; };
    int64_t number = plane * kernel_h * kernel_w * out_h();
    for (int64_t ky = 0; ky < kernel_h; ++ky) {
      for (int64_t kx = 0; kx < kernel_w; ++kx) {
        const int64_t shift = kx - padding_w;
        const int64_t first = std::min(out_w(), rounded_up(-shift)), last = std::clamp(rounded_up(width - shift), first, out_w());
        for (int64_t oy = 0; oy < out_h(); ++oy, ++number) {
          const int64_t y = oy * stride + ky - padding_h;
          const bool inside = y >= 0 && y < height;
          f(number, inside ? Row{first, last, y * width + first * stride + shift} : Row{0, 0, 0});
        }
      }
    }
  }

  template <class F>
  void for_planes(F&& f) const {
    parallel_for(planes, grain_for(kernel_h * kernel_w * out_h() * out_w()), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) f(plane);
    });
  }
};

}  // namespace

void unfold(Tensor& y, const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h, int64_t padding_w) {
  const Windows w(x, kernel_h, kernel_w, stride, padding_h, padding_w);
  const int64_t out_w = w.out_w();
  dispatch_float(x.dtype(), "unfold", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    w.for_planes([&](int64_t plane) {
      const T* image = in + plane * w.height * w.width;
      w.for_rows(plane, [&](int64_t number, const Windows::Row& row) {
        T* values = out + number * out_w;
        std::fill(values, values + row.first, T(0));
        if (w.stride == 1) {
          std::copy_n(image + row.source, row.last - row.first, values + row.first);
        } else {
          for (int64_t i = row.first; i < row.last; ++i) values[i] = image[row.source + (i - row.first) * w.stride];
        }
        std::fill(values + row.last, values + out_w, T(0));
      });
    });
  });
}

void unfold_backward(Tensor& dx, const Tensor& dy, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h,
                     int64_t padding_w) {
  fill(dx, 0);
  const Windows w(dx, kernel_h, kernel_w, stride, padding_h, padding_w);
  const int64_t out_w = w.out_w();
  dispatch_float(dx.dtype(), "unfold", [&]<class T>() {
    T* out = dx.data<T>();
    const T* in = dy.data<T>();
    w.for_planes([&](int64_t plane) {  // each plane of dx belongs to one thread: a fixed order of additions
      T* image = out + plane * w.height * w.width;
      w.for_rows(plane, [&](int64_t number, const Windows::Row& row) {
        const T* values = in + number * out_w;
        if (w.stride == 1) {
#pragma omp simd
          for (int64_t i = row.first; i < row.last; ++i) image[row.source + i - row.first] += values[i];
        } else {
          for (int64_t i = row.first; i < row.last; ++i) image[row.source + (i - row.first) * w.stride] += values[i];
        }
      });
    });
  });
}

}  // namespace weft::cpu
