// Sliding windows: what turns a convolution into a matrix product. Windows are written once; the backward gathers, for every element of
// the image, what the windows that hold it say, in a fixed order.
#include "weft/core/cuda/moves.cuh"

namespace weft::cuda {
namespace {

struct Windows {
  int64_t height, width, padding_h, padding_w, out_h, out_w;
  Divisor by_height, by_width, by_kernel_h, by_kernel_w, by_out_h, by_out_w, by_stride;

  Windows(const Tensor& image, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t ph, int64_t pw)
      : height(image.shape()[2]),
        width(image.shape()[3]),
        padding_h(ph),
        padding_w(pw),
        out_h((height + 2 * ph - kernel_h) / stride + 1),
        out_w((width + 2 * pw - kernel_w) / stride + 1),
        by_height(std::max<int64_t>(height, 1)),
        by_width(std::max<int64_t>(width, 1)),
        by_kernel_h(kernel_h),
        by_kernel_w(kernel_w),
        by_out_h(out_h),
        by_out_w(out_w),
        by_stride(stride) {}

  __device__ int64_t kernel_h() const { return by_kernel_h.value(); }
  __device__ int64_t kernel_w() const { return by_kernel_w.value(); }
  __device__ int64_t stride() const { return by_stride.value(); }
};

// i = quotient * divisor + remainder.
struct Division {
  int64_t quotient, remainder;
  __device__ Division(int64_t i, const Divisor& divisor) : quotient(divisor.divide(i)), remainder(i - quotient * divisor.value()) {}
};

// N neighbours of y [planes, kernel_h, kernel_w, out_h, out_w]: their place is found once and counted on.
template <class T, int N>
struct Unfold {
  const T* x;
  Windows w;
  __device__ Pack<T, N> operator()(int64_t e) const {
    const Division in_row(e * N, w.by_out_w), in_column(in_row.quotient, w.by_out_h);
    const Division in_kernel_row(in_column.quotient, w.by_kernel_w), in_kernel(in_kernel_row.quotient, w.by_kernel_h);
    int64_t ox = in_row.remainder, oy = in_column.remainder, kx = in_kernel_row.remainder, ky = in_kernel.remainder;
    int64_t plane = in_kernel.quotient;
    Pack<T, N> pack;
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) {
      const int64_t row = oy * w.stride() + ky - w.padding_h, column = ox * w.stride() + kx - w.padding_w;
      const bool inside = row >= 0 && row < w.height && column >= 0 && column < w.width;
      pack.value[i] = inside ? x[(plane * w.height + row) * w.width + column] : T(0);
      if (++ox < w.out_w) continue;
      ox = 0;
      if (++oy < w.out_h) continue;
      oy = 0;
      if (++kx < w.kernel_w()) continue;
      kx = 0;
      if (++ky < w.kernel_h()) continue;
      ky = 0;
      ++plane;
    }
    return pack;
  }
};

// The windows of one axis that hold an element: those at kernel places first, first + stride, ... below `last`, at output place - 1 each.
struct Holders {
  int64_t first, last, place;
  __device__ Holders(int64_t at, const Divisor& stride, int64_t kernel, int64_t outputs) {
    const int64_t newest = stride.divide(at);  // the last output whose window begins at or before `at`
    place = std::min(newest, outputs - 1);
    first = at - place * stride.value();
    last = std::min(kernel, at + 1);
  }
};

// dx [planes, height, width]
template <class T>
struct Fold {
  const T* dy;
  Windows w;
  __device__ T operator()(int64_t e) const {
    const Division column(e, w.by_width), row(column.quotient, w.by_height);
    const Holders in_y(row.remainder + w.padding_h, w.by_stride, w.kernel_h(), w.out_h);
    const Holders in_x(column.remainder + w.padding_w, w.by_stride, w.kernel_w(), w.out_w);
    acc_of<T> sum = 0;
    int64_t oy = in_y.place;
    for (int64_t ky = in_y.first; ky < in_y.last; ky += w.stride(), --oy) {
      int64_t ox = in_x.place;
      for (int64_t kx = in_x.first; kx < in_x.last; kx += w.stride(), --ox) {
        sum += widen(dy[(((row.quotient * w.kernel_h() + ky) * w.kernel_w() + kx) * w.out_h + oy) * w.out_w + ox]);
      }
    }
    return narrow<T>(sum);
  }
};

}  // namespace

void unfold(Tensor& y, const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h, int64_t padding_w) {
  if (y.numel() == 0) return;
  const Windows w(x, kernel_h, kernel_w, stride, padding_h, padding_w);
  dispatch_size(x.dtype(), [&]<class T>() {
    constexpr int N = pack_size<T>;
    const T* in = static_cast<const T*>(x.raw());
    if (y.numel() % N == 0 && can_pack<N>(static_cast<T*>(y.raw()))) {
      produce<Pack<T, N>>(y, y.numel() / N, Unfold<T, N>{in, w});
    } else {
      produce<Pack<T, 1>>(y, y.numel(), Unfold<T, 1>{in, w});
    }
  });
}

void unfold_backward(Tensor& dx, const Tensor& dy, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h,
                     int64_t padding_w) {
  if (dx.numel() == 0) return;
  const Windows w(dx, kernel_h, kernel_w, stride, padding_h, padding_w);
  dispatch_compute(dx.dtype(), "unfold", [&]<class T>() { produce<T>(dx, dx.numel(), Fold<T>{dy.data<T>(), w}); });
}

}  // namespace weft::cuda
