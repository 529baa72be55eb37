// Convolutions as sliding windows times a matrix; groups are batches of smaller products. Windows are kh * kw times as large as the input:
// they are made for a few images at a time, and again in the backward instead of being kept.
#include <algorithm>

#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

struct Convolution {
  int64_t batch, channels, height, width, out, kernel_h, kernel_w, stride, padding_h, padding_w, groups;

  int64_t out_h() const { return (height + 2 * padding_h - kernel_h) / stride + 1; }
  int64_t out_w() const { return (width + 2 * padding_w - kernel_w) / stride + 1; }
  int64_t pixels() const { return out_h() * out_w(); }
  int64_t window() const { return channels / groups * kernel_h * kernel_w; }  // values behind one output
  bool pointwise() const { return kernel_h == 1 && kernel_w == 1 && stride == 1 && padding_h == 0 && padding_w == 0; }
  Shape weight_shape() const { return {groups, out / groups, window()}; }

  // Images whose windows are made at once: small ones together, so that there is work for every thread.
  int64_t images_at_once() const {
    constexpr int64_t elements = int64_t{1} << 21;
    return std::clamp<int64_t>(elements / std::max<int64_t>(1, groups * window() * pixels()), 1, std::max<int64_t>(1, batch));
  }
  template <class F>
  void for_images(F&& f) const {
    const int64_t step = images_at_once();
    for (int64_t begin = 0; begin < batch; begin += step) f(begin, std::min(batch, begin + step));
  }

  Shape windows_shape(int64_t images) const { return {images, groups, window(), pixels()}; }
  Shape outputs_shape(int64_t images) const { return {images, groups, out / groups, pixels()}; }

  // The windows of images x [n, C, H, W], [n, G, window, pixels].
  Tensor windows(const Tensor& x) const {
    if (pointwise()) return x.viewed_as(windows_shape(x.size(0)));
    Tensor y = empty(windows_shape(x.size(0)), x.options());
    WEFT_LAUNCH(x, unfold(y, x, kernel_h, kernel_w, stride, padding_h, padding_w));
    return y;
  }
};

Tensor forward(const Convolution& c, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor y = empty({c.batch, c.out, c.out_h(), c.out_w()}, x.options());
  if (bias.defined()) WEFT_LAUNCH(y, broadcast_to(y, bias.viewed_as({c.out, 1, 1})));
  const Tensor w = weight.viewed_as(c.weight_shape());
  c.for_images([&](int64_t begin, int64_t end) {
    Tensor part = y.rows(begin, end).viewed_as(c.outputs_shape(end - begin));
    WEFT_LAUNCH(y, matmul(part, w, c.windows(x.rows(begin, end)), false, false, 1, bias.defined()));  // y = w windows
  });
  return y;
}

Tensor input_gradient(const Convolution& c, const Tensor& dy, const Tensor& weight) {
  Tensor dx = empty({c.batch, c.channels, c.height, c.width}, dy.options());
  const Tensor w = weight.viewed_as(c.weight_shape());
  c.for_images([&](int64_t begin, int64_t end) {
    Tensor part = dx.rows(begin, end);
    const Tensor dpart = dy.rows(begin, end).viewed_as(c.outputs_shape(end - begin));
    Tensor dwindows = c.pointwise() ? part.viewed_as(c.windows_shape(end - begin)) : empty(c.windows_shape(end - begin), dy.options());
    WEFT_LAUNCH(dy, matmul(dwindows, w, dpart, true, false, 1, false));  // dwindows = w^T dy
    if (!c.pointwise()) WEFT_LAUNCH(dy, unfold_backward(part, dwindows, c.kernel_h, c.kernel_w, c.stride, c.padding_h, c.padding_w));
  });
  return dx;
}

Tensor weight_gradient(const Convolution& c, const Tensor& dy, const Tensor& x) {
  Tensor dw = zeros(c.weight_shape(), dy.options());
  c.for_images([&](int64_t begin, int64_t end) {
    const Tensor windows = c.windows(x.rows(begin, end));
    for (int64_t i = begin; i < end; ++i) {
      const Tensor dimage = dy.rows(i, i + 1).viewed_as({c.groups, c.out / c.groups, c.pixels()});
      const Tensor image = windows.rows(i - begin, i - begin + 1).viewed_as({c.groups, c.window(), c.pixels()});
      WEFT_LAUNCH(dy, matmul(dw, dimage, image, false, true, 1, true));  // dw += dy windows^T
    }
  });
  return dw;
}

Tensor convolve(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvOptions& options, int64_t padding_h,
                const Location& at) {
  const auto [stride, padding, groups] = options;
  check_float(op, x);
  check_alike(op, "x", x, "weight", weight);
  if (bias.defined()) check_alike(op, "x", x, "bias", bias);
  WEFT_CHECK(stride >= 1 && padding >= 0 && groups >= 1, "{}: expected stride >= 1, padding >= 0 and groups >= 1, got {}, {} and {}", op,
             stride, padding, groups);
  const Convolution c{.batch = x.size(0),
                      .channels = x.size(1),
                      .height = x.size(2),
                      .width = x.size(3),
                      .out = weight.size(0),
                      .kernel_h = weight.size(2),
                      .kernel_w = weight.size(3),
                      .stride = stride,
                      .padding_h = padding_h,
                      .padding_w = padding,
                      .groups = groups};
  WEFT_CHECK(c.channels % groups == 0 && c.out % groups == 0 && weight.size(1) == c.channels / groups,
             "{}: {} input channels in {} groups need a weight of [out, {}, ..] with out divisible by {}, got {}", op, c.channels, groups,
             c.channels / groups, groups, weight);
  WEFT_CHECK(c.kernel_h >= 1 && c.kernel_w >= 1, "{}: the kernel must have at least one element, got {}", op, weight);
  WEFT_CHECK(c.height + 2 * padding_h >= c.kernel_h && c.width + 2 * padding >= c.kernel_w,
             "{}: the kernel of {} is larger than the padded input {}; add padding", op, weight, x);
  WEFT_CHECK(!bias.defined() || bias.shape() == Shape{c.out}, "{}: weight is {}, so bias should be [{}], got {}", op, weight, c.out, bias);
  Tensor y = forward(c, detach(x), detach(weight), bias);
  return record(
      op, y, bias.defined() ? std::vector<Tensor>{x, weight, bias} : std::vector<Tensor>{x, weight},
      [c, x = requires_grad(weight) ? detach(x) : Tensor(), weight = requires_grad(x) ? detach(weight) : Tensor(), shape = weight.shape(),
       has_bias = bias.defined(), dbias_wanted = bias.defined() && requires_grad(bias)](const Tensor& dy) -> Grads {
        Tensor dx, dweight, dbias;
        if (weight.defined()) dx = input_gradient(c, dy, weight);
        if (x.defined()) dweight = weight_gradient(c, dy, x).viewed_as(shape);
        if (dbias_wanted) {
          dbias = empty({c.out}, dy.options());
          AxisSet all_but_channels{0b1101};
          WEFT_LAUNCH(dy, sum(dbias, dy, all_but_channels));
        }
        return has_bias ? Grads{dx, dweight, dbias} : Grads{dx, dweight};
      },
      at);
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options, Location at) {
  WEFT_CHECK(x.rank() == 4 && weight.rank() == 4, "conv2d: expected x [B, C, H, W] and weight [O, C / groups, kh, kw], got {} and {}", x,
             weight);
  return convolve("conv2d", x, weight, bias, options, options.padding, at);
}

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options, Location at) {
  WEFT_CHECK(x.rank() == 3 && weight.rank() == 3, "conv1d: expected x [B, C, N] and weight [O, C / groups, k], got {} and {}", x, weight);
  return squeeze(convolve("conv1d", unsqueeze(x, 2, at), unsqueeze(weight, 2, at), bias, options, 0, at), 2, at);
}

}  // namespace weft
