// Convolutions as sliding windows times a matrix; groups are batches of smaller products.
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

// The windows of x [B, C, H, W], [B, C * kh * kw, oh * ow], and their transpose as gradient.
Tensor unfold(const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h, int64_t padding_w,
              const Location& at) {
  const int64_t out_h = (x.size(2) + 2 * padding_h - kernel_h) / stride + 1, out_w = (x.size(3) + 2 * padding_w - kernel_w) / stride + 1;
  Tensor y = empty({x.size(0), x.size(1) * kernel_h * kernel_w, out_h * out_w}, {.dtype = x.dtype(), .device = x.device()});
  WEFT_LAUNCH(x, unfold(y, x, kernel_h, kernel_w, stride, padding_h, padding_w));
  return record(
      "unfold", y, {x},
      [=, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, {.dtype = dy.dtype(), .device = dy.device()});
        WEFT_LAUNCH(dy, unfold_backward(dx, dy, kernel_h, kernel_w, stride, padding_h, padding_w));
        return {dx};
      },
      at);
}

Tensor convolve(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvOptions& options, int64_t padding_h,
                const Location& at) {
  const auto [stride, padding, groups] = options;
  WEFT_CHECK(stride >= 1 && padding >= 0 && groups >= 1, "{}: expected stride >= 1, padding >= 0 and groups >= 1, got {}, {} and {}", op,
             stride, padding, groups);
  const int64_t batch = x.size(0), channels = x.size(1), out = weight.size(0), kernel_h = weight.size(2), kernel_w = weight.size(3);
  WEFT_CHECK(channels % groups == 0 && out % groups == 0 && weight.size(1) == channels / groups,
             "{}: {} input channels in {} groups need a weight of [out, {}, ..] with out divisible by {}, got {}", op, channels, groups,
             channels / groups, groups, weight);
  WEFT_CHECK(x.size(2) + 2 * padding_h >= kernel_h && x.size(3) + 2 * padding >= kernel_w,
             "{}: the kernel {} is larger than the padded input {}; add padding", op, weight.shape(), x.shape());
  WEFT_CHECK(!bias.defined() || bias.shape() == Shape{out}, "{}: weight is {}, so bias should be [{}], got {}", op, weight, out, bias);
  const int64_t out_h = (x.size(2) + 2 * padding_h - kernel_h) / stride + 1, out_w = (x.size(3) + 2 * padding - kernel_w) / stride + 1;

  const int64_t window = channels / groups * kernel_h * kernel_w;
  const bool pointwise = kernel_h == 1 && kernel_w == 1 && stride == 1 && padding == 0 && padding_h == 0;
  const Tensor windows = pointwise ? x : unfold(x, kernel_h, kernel_w, stride, padding_h, padding, at);
  const Tensor grouped = reshape(windows, {batch, groups, window, out_h * out_w}, at);
  Tensor y = matmul(reshape(weight, {groups, out / groups, window}, at), grouped, {}, at);  // [B, G, out / G, oh * ow]
  y = reshape(y, {batch, out, out_h, out_w}, at);
  return bias.defined() ? add(y, reshape(bias, {1, out, 1, 1}, at), at) : y;
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options, Location at) {
  WEFT_CHECK(x.rank() == 4 && weight.rank() == 4, "conv2d: expected x [B, C, H, W] and weight [O, C / groups, kh, kw], got {} and {}", x,
             weight);
  return convolve("conv2d", x, weight, bias, options, options.padding, at);
}

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options, Location at) {
  WEFT_CHECK(x.rank() == 3 && weight.rank() == 3, "conv1d: expected x [B, C, N] and weight [O, C / groups, k], got {} and {}", x, weight);
  const Tensor y = convolve("conv1d", unsqueeze(x, 2, at), unsqueeze(weight, 2, at), bias, options, 0, at);
  return squeeze(y, 2, at);
}

}  // namespace weft
