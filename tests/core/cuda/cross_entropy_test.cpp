// Cross-entropy on CUDA: vocabularies of every size, so that rows begin anywhere, ignored rows, smoothing, gradients in the logits' memory.
#include "core/cuda/on_cuda.h"
#include "weft/autograd/graph.h"
#include "weft/autograd/ops.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(), quiet_nan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t ignored = -100;

// Every fourth row is ignored from the second on.
Tensor random_targets(int64_t rows, int64_t classes) {
  Generator generator(3);
  Tensor targets = randint(classes, {rows}, Device::cpu(), &generator);
  for (int64_t r = 1; r < rows; r += 4) targets.data<int64_t>()[r] = ignored;
  return targets;
}

struct Case {
  double smoothing = 0;
  bool in_place = false;
  double shift = 0;  // of all logits
};

// logits, dloss, targets
std::vector<Tensor> loss_and_gradient(const std::vector<Tensor>& in, Case options) {
  const Tensor& logits = in[0];
  Tensor loss = empty({logits.size(0)}, {.dtype = acc_dtype(logits.dtype()), .device = logits.device()}), lse = empty_like(loss);
  WEFT_LAUNCH(logits, cross_entropy(loss, lse, logits, in[2], ignored, options.smoothing));
  Tensor dlogits = options.in_place ? clone(logits) : empty_like(logits);
  WEFT_LAUNCH(logits, cross_entropy_backward(dlogits, to(in[1], loss.dtype()), options.in_place ? dlogits : logits, lse, in[2], ignored,
                                             options.smoothing));
  return {loss, lse, dlogits};
}

void check_cross_entropy(int64_t rows, int64_t classes, Case options = {}) {
  INFO(rows, " rows of ", classes, " classes, smoothing ", options.smoothing);
  Tensor logits = normal({rows, classes});
  for (int64_t i = 0; i < logits.numel(); ++i) logits.data<double>()[i] = 3 * logits.data<double>()[i] + options.shift;
  const double units = options.shift == 0 ? 24 : 1000;  // the loss is a difference of logits: they have fewer digits behind the point
  check_on_cuda(
      {logits, normal({rows}, 2), random_targets(rows, classes)},
      [&](const std::vector<Tensor>& in) { return loss_and_gradient(in, options); }, weft::testing::compute_dtypes, units);
}

}  // namespace

TEST_CASE("cuda: cross_entropy of vocabularies of every size") {
  check_cross_entropy(9, 1);
  for (int64_t classes : {2, 3, 7, 8, 10, 33, 64, 65, 127, 257}) {
    for (double smoothing : {0.0, 0.1}) check_cross_entropy(9, classes, {.smoothing = smoothing});
  }
  for (int64_t classes : {1000, 1001, 2053, 5001}) check_cross_entropy(3, classes, {.smoothing = 0.1});
  check_cross_entropy(2, 20011);  // several stretches of a block
  check_cross_entropy(70, 5);     // more rows than a block of small teams takes
  check_cross_entropy(1, 40, {.smoothing = 1});
}

TEST_CASE("cuda: cross_entropy of large logits") {
  for (double shift : {-1e4, 1e4}) check_cross_entropy(5, 130, {.smoothing = 0.1, .shift = shift});
}

TEST_CASE("cuda: cross_entropy_backward may write to the logits") {
  for (int64_t classes : {3, 64, 257, 1001}) check_cross_entropy(9, classes, {.smoothing = 0.1, .in_place = true});
}

TEST_CASE("cuda: cross_entropy of views that do not begin at 16 bytes") {
  for (int64_t classes : {8, 9, 600}) {
    check_on_cuda({normal({5 * classes}), normal({4}, 2), random_targets(4, classes)}, [&](const std::vector<Tensor>& in) {
      std::vector<Tensor> out;
      for (int64_t begin : {1, 3}) {
        const Tensor part = in[0].rows(begin, begin + 4 * classes).viewed_as({4, classes});
        for (Tensor& t : loss_and_gradient({part, in[1], in[2]}, {.smoothing = 0.2})) out.push_back(t);
      }
      return out;
    });
  }
}

TEST_CASE("cuda: cross_entropy of infinities, NaN and nothing") {
  for (int64_t classes : {5, 70, 3000}) {
    Tensor logits = normal({8, classes}), targets = from_vector<int64_t>({0, 0, 1, 1, 2, ignored, 3, 0}, {8}, Device::cpu());
    double* row = logits.data<double>();
    row[1] = -infinity;
    (row += classes)[0] = -infinity;  // the target cannot be
    (row += classes)[0] = quiet_nan;  // NaN
    std::fill_n(row += classes, classes, -infinity);
    (row += classes)[4] = infinity;
    std::fill_n(row += classes, classes, quiet_nan);  // ignored
    std::fill_n(row += classes, classes - 1, -infinity);
    std::fill_n(row += classes, classes, 2);
    for (double smoothing : {0.0, 0.1}) {
      check_on_cuda({logits, normal({8}, 2), targets},
                    [&](const std::vector<Tensor>& in) { return loss_and_gradient(in, {.smoothing = smoothing}); });
    }
  }
  check_cross_entropy(0, 5);
  const Tensor nobody = full({3}, static_cast<double>(ignored), {.dtype = DType::int64, .device = Device::cpu()});
  for (int64_t classes : {0, 4}) {
    check_on_cuda({normal({3, classes}), normal({3}), nobody}, [](const std::vector<Tensor>& in) { return loss_and_gradient(in, {}); });
  }
}

TEST_CASE("cuda: a target out of range makes its loss NaN and reads nothing else") {
  for (int64_t classes : {5, 300}) {
    const Tensor logits = to(to(normal({3, classes}), DType::float32), Device::cuda());
    const Tensor targets = from_vector<int64_t>({1, int64_t{1} << 40, -7}, {3}, Device::cuda());
    const Tensor dloss = ones({3}, {.device = Device::cuda()});
    const std::vector<float> loss = to(loss_and_gradient({logits, dloss, targets}, {})[0], Device::cpu()).to_vector<float>();
    CHECK(std::isfinite(loss[0]));
    CHECK(std::isnan(loss[1]));
    CHECK(std::isnan(loss[2]));
  }
}

TEST_CASE("cuda: the loss of logits in half precision is float32") {
  const Tensor targets = random_targets(6, 11), x = normal({6, 11});
  for (DType dtype : {DType::float16, DType::bfloat16}) {
    const Tensor rounded = parameter(to(to(x, dtype), DType::float64)), logits = parameter(to(to(x, dtype), Device::cuda()));
    CHECK(cross_entropy(logits, to(targets, Device::cuda()), {.reduction = Reduction::none}).dtype() == DType::float32);
    const Tensor loss = cross_entropy(logits, to(targets, Device::cuda())), expected = cross_entropy(rounded, targets);
    CHECK(loss.dtype() == DType::float32);
    CHECK(loss.item() == doctest::Approx(expected.item()).epsilon(1e-6));
    const Tensor dlogits = gradients(loss, {logits})[0];
    CHECK(dlogits.dtype() == dtype);
    CHECK(weft::testing::distance(dlogits, gradients(expected, {rounded})[0]) < 0.25 * weft::testing::unit_roundoff(dtype));
  }
}
