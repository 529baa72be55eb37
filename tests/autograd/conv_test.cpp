// Convolutions against their definition: stride, padding, groups, depthwise, pointwise, empty batches; their gradients.
#include "loops_testing.h"

namespace weft {
namespace {

using namespace testing;

void check_conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvOptions& o) {
  CAPTURE(to_string(x.shape()));
  CAPTURE(to_string(weight.shape()));
  const Array image(x), kernel(weight);
  const int64_t kh = weight.size(2), kw = weight.size(3), per_group = weight.size(1), out = weight.size(0);
  const Shape expected{x.size(0), out, (x.size(2) + 2 * o.padding - kh) / o.stride + 1, (x.size(3) + 2 * o.padding - kw) / o.stride + 1};
  check_each(
      conv2d(x, weight, bias, o), expected,
      [&](const Index& i) {
        double total = bias.defined() ? Array(bias)[{i[1]}] : 0;
        for (int64_t c = 0; c < per_group; ++c) {
          for (int64_t ky = 0; ky < kh; ++ky) {
            for (int64_t kx = 0; kx < kw; ++kx) {
              const int64_t row = i[2] * o.stride + ky - o.padding, column = i[3] * o.stride + kx - o.padding;
              if (row < 0 || row >= x.size(2) || column < 0 || column >= x.size(3)) continue;
              total += image[{i[0], i[1] / (out / o.groups) * per_group + c, row, column}] * kernel[{i[1], c, ky, kx}];
            }
          }
        }
        return total;
      },
      x.dtype() == DType::float64 ? 1e-13 : 1e-5);
}

const ConvOptions every_option[] = {{},
                                    {.padding = 1},
                                    {.stride = 2, .padding = 1},
                                    {.stride = 3, .padding = 2},
                                    {.padding = 3, .groups = 2},
                                    {.stride = 2, .padding = 1, .groups = 4}};

TEST_CASE("conv2d agrees with its definition") {
  manual_seed(1);
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const ConvOptions& o : every_option) {
      for (const Shape& kernel : {Shape({1, 1}), Shape({3, 3}), Shape({2, 5}), Shape({5, 1})}) {
        const Tensor x = random({2, 4, 7, 5}, dtype), weight = random({8, 4 / o.groups, kernel[0], kernel[1]}, dtype),
                     bias = random({8}, dtype);
        check_conv2d(x, weight, bias, o);
        check_conv2d(x, weight, {}, o);
      }
    }
    check_conv2d(random({1, 1, 1, 1}, dtype), random({1, 1, 1, 1}, dtype), {}, {});
    check_conv2d(random({1, 1, 1, 2}, dtype), random({1, 1, 9, 9}, dtype), {}, {.padding = 5});  // more padding than image
    check_conv2d(random({0, 2, 5, 5}, dtype), random({3, 2, 3, 3}, dtype), random({3}, dtype), {});
    check_conv2d(random({5, 3, 40, 33}, dtype), random({7, 3, 3, 3}, dtype), {}, {.padding = 1});
    check_conv2d(random({300, 2, 6, 6}, dtype), random({2, 1, 3, 3}, dtype), {}, {.padding = 1, .groups = 2});
  }
}

TEST_CASE("conv1d is conv2d over one row") {
  manual_seed(2);
  for (const ConvOptions& o : every_option) {
    const Tensor x = random({3, 4, 33}), weight = random({4, 4 / o.groups, 5}), bias = random({4});
    const Array image(x), kernel(weight), add(bias);
    const int64_t per_group = weight.size(1);
    check_each(
        conv1d(x, weight, bias, o), {3, 4, (33 + 2 * o.padding - 5) / o.stride + 1},
        [&](const Index& i) {
          double total = add[{i[1]}];
          for (int64_t c = 0; c < per_group; ++c) {
            for (int64_t k = 0; k < 5; ++k) {
              const int64_t at = i[2] * o.stride + k - o.padding;
              if (at >= 0 && at < 33) total += image[{i[0], i[1] / (4 / o.groups) * per_group + c, at}] * kernel[{i[1], c, k}];
            }
          }
          return total;
        },
        1e-13);
  }
}

TEST_CASE("gradients of convolutions") {
  manual_seed(3);
  using Inputs = std::vector<Tensor>;
  for (const ConvOptions& o : every_option) {
    const auto f = [&](const Inputs& in) { return conv2d(in[0], in[1], in[2], o); };
    gradcheck(f, {random({2, 4, 5, 4}), random({4, 4 / o.groups, 3, 2}), random({4})});
    gradcheck(f, {random({1, 4, 3, 7}), random({8, 4 / o.groups, 1, 1}), random({8})});
    gradcheck([&](const Inputs& in) { return conv1d(in[0], in[1], {}, o); }, {random({3, 4, 7}), random({4, 4 / o.groups, 3})});
  }
  const Tensor x = random({2, 3, 5, 4}), weight = random({2, 3, 2, 2}), bias = random({2});
  gradcheck([&](const Inputs& in) { return conv2d(x, in[0], bias); }, {weight});
  gradcheck([&](const Inputs& in) { return conv2d(in[0], weight, bias); }, {x});
  gradcheck([&](const Inputs& in) { return conv2d(x, weight, in[0]); }, {bias});
  gradcheck([&](const Inputs& in) { return conv2d(in[0], in[1]); }, {random({0, 3, 5, 4}), weight});
  // Many small images: their windows are made together, in several rounds.
  gradcheck([](const Inputs& in) { return conv2d(in[0], in[1], {}, {.padding = 1}); }, {random({500, 3, 16, 16}), random({2, 3, 5, 5})},
            {.every_element = false});
}

TEST_CASE("a convolution keeps its input, not its windows") {
  const Tensor x = parameter(random({4, 8, 32, 32}, DType::float32)), weight = parameter(random({8, 8, 5, 5}, DType::float32));
  const int64_t before = bytes_in_use();
  const Tensor y = conv2d(x, weight, {}, {.padding = 2});
  CHECK(bytes_in_use() - before == y.bytes());
}

TEST_CASE("convolutions give the same bits on one thread and on several") {
  manual_seed(4);
  const Tensor x = random({6, 8, 20, 20}, DType::float32), w = random({8, 1, 3, 3}, DType::float32),
               dy = random({6, 8, 20, 20}, DType::float32);
  const auto run = [&] {
    const Tensor in = parameter(clone(x)), weight = parameter(clone(w));
    const Tensor y = conv2d(in, weight, {}, {.padding = 1, .groups = 8});
    backward(y, dy);
    return std::vector<std::vector<float>>{y.to_vector<float>(), grad(in).to_vector<float>(), grad(weight).to_vector<float>()};
  };
  std::vector<std::vector<float>> one, three;
  {
    ThreadCount scope(1);
    one = run();
  }
  {
    ThreadCount scope(3);
    three = run();
  }
  CHECK(one == three);
}

TEST_CASE("errors of convolutions") {
  const Tensor x = zeros({1, 4, 5, 5}), weight = zeros({6, 4, 3, 3});
  CHECK_THROWS_WITH_AS(conv2d(zeros({4, 5, 5}), weight),
                       "conv2d: expected x [B, C, H, W] and weight [O, C / groups, kh, kw], got float32 [4, 5, 5] and float32 [6, 4, 3, 3]",
                       Error);
  CHECK_THROWS_WITH_AS(
      conv2d(x, weight, {}, {.groups = 2}),
      "conv2d: 4 input channels in 2 groups need a weight of [out, 2, ..] with out divisible by 2, got float32 [6, 4, 3, 3]", Error);
  CHECK_THROWS_WITH_AS(conv2d(x, weight, {}, {.stride = 0}), "conv2d: expected stride >= 1, padding >= 0 and groups >= 1, got 0, 0 and 1",
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(x, zeros({6, 4, 7, 3})),
                       "conv2d: the kernel of float32 [6, 4, 7, 3] is larger than the padded input float32 [1, 4, 5, 5]; add padding",
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(x, zeros({6, 4, 0, 3})), "conv2d: the kernel must have at least one element, got float32 [6, 4, 0, 3]",
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(x, weight, zeros({5})), "conv2d: weight is float32 [6, 4, 3, 3], so bias should be [6], got float32 [5]",
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(x, zeros({6, 4, 3, 3}, {.dtype = DType::float64})),
                       "conv2d: x is float32 [1, 4, 5, 5], but weight is float64 [6, 4, 3, 3]; convert one with to(x, DType::float32)",
                       Error);
  CHECK_THROWS_WITH_AS(conv1d(x, weight),
                       "conv1d: expected x [B, C, N] and weight [O, C / groups, k], got float32 [1, 4, 5, 5] and float32 [6, 4, 3, 3]",
                       Error);
}

}  // namespace
}  // namespace weft
