#include "testing.h"

using namespace weft;
using namespace weft::testing;

namespace {

// Convolution by its definition.
Tensor loops(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvOptions& o) {
  const int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3), out = weight.size(0), kh = weight.size(2),
                kw = weight.size(3);
  const int64_t oh = (height + 2 * o.padding - kh) / o.stride + 1, ow = (width + 2 * o.padding - kw) / o.stride + 1;
  const std::vector<double> xs = x.to_vector<double>(), ws = weight.to_vector<double>(), bs = bias.to_vector<double>();
  std::vector<double> y;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t c = 0; c < out; ++c) {
      for (int64_t i = 0; i < oh; ++i) {
        for (int64_t j = 0; j < ow; ++j) {
          double sum = bs[static_cast<size_t>(c)];
          const int64_t per_group = channels / o.groups, first = c / (out / o.groups) * per_group;
          for (int64_t k = 0; k < per_group; ++k) {
            for (int64_t di = 0; di < kh; ++di) {
              for (int64_t dj = 0; dj < kw; ++dj) {
                const int64_t r = i * o.stride + di - o.padding, s = j * o.stride + dj - o.padding;
                if (r < 0 || r >= height || s < 0 || s >= width) continue;
                sum += xs[static_cast<size_t>(((b * channels + first + k) * height + r) * width + s)] *
                       ws[static_cast<size_t>(((c * per_group + k) * kh + di) * kw + dj)];
              }
            }
          }
          y.push_back(sum);
        }
      }
    }
  }
  return from_vector<double>(y, {batch, out, oh, ow});
}

}  // namespace

TEST_CASE("conv2d: values and gradients with stride, padding and groups") {
  for (const ConvOptions& options :
       std::vector<ConvOptions>{{}, {.stride = 2, .padding = 1}, {.padding = 2, .groups = 2}, {.stride = 3, .groups = 4}}) {
    const Tensor x = normal({2, 4, 7, 5}, 1), weight = normal({4, 4 / options.groups, 3, 2}, 2), bias = normal({4}, 3);
    CHECK(close(conv2d(x, weight, bias, options), loops(x, weight, bias, options)));
  }
  const ConvOptions options{.stride = 2, .padding = 1, .groups = 2};
  gradcheck([&](const std::vector<Tensor>& in) { return conv2d(in[0], in[1], in[2], options); },
            {normal({1, 2, 5, 4}, 1), normal({4, 1, 3, 2}, 2), normal({4}, 3)});
  gradcheck([](const std::vector<Tensor>& in) { return conv2d(in[0], in[1]); }, {normal({2, 3, 2, 3}, 1), normal({5, 3, 1, 1}, 2)});
}

TEST_CASE("conv1d: depthwise and causal by padding") {
  const Tensor x = normal({2, 3, 7}, 1), weight = normal({3, 1, 3}, 2), bias = normal({3}, 3);
  const Tensor y = conv1d(x, weight, bias, {.padding = 2, .groups = 3});
  CHECK(y.shape() == Shape{2, 3, 9});
  gradcheck([&](const std::vector<Tensor>& in) { return conv1d(in[0], in[1], in[2], {.padding = 2, .groups = 3}); }, {x, weight, bias});
}

TEST_CASE("convolutions: errors") {
  const Tensor x = normal({1, 4, 5, 5}), weight = normal({6, 4, 3, 3});
  CHECK(has(error_of([&] { conv2d(normal({4, 5, 5}), weight); }), "conv2d: expected x [B, C, H, W]"));
  CHECK(has(error_of([&] { conv2d(x, weight, {}, {.groups = 2}); }), "4 input channels in 2 groups need a weight of [out, 2, ..]"));
  CHECK(has(error_of([&] { conv2d(x, weight, {}, {.stride = 0}); }), "stride >= 1"));
  CHECK(has(error_of([&] { conv2d(x, normal({6, 4, 7, 3})); }), "larger than the padded input"));
  CHECK(has(error_of([&] { conv2d(x, weight, normal({5})); }), "bias should be [6]"));
  CHECK(has(error_of([&] { conv1d(x, weight); }), "conv1d: expected x [B, C, N]"));
}
