// Losses against plain loops in double, their gradients, and what the fused cross-entropy keeps in memory.

#include <cmath>
#include <limits>

#include "testing.h"
#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/device.h"
#include "weft/core/random.h"

namespace weft {
namespace {

using testing::ThreadCount;

Tensor normal(const Shape& shape, DType dtype = DType::float64, double std = 1) { return randn(shape, 0, std, {.dtype = dtype}); }
std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }

// loss of every row, as PyTorch defines it: the target distribution is (1 - smoothing) at the target plus smoothing / V everywhere.
std::vector<double> plain_losses(const Tensor& logits, const Tensor& targets, int64_t ignore_index, double smoothing) {
  const auto x = values(logits);
  const auto t = targets.to_vector<int64_t>();
  const size_t classes = static_cast<size_t>(logits.size(-1));
  std::vector<double> losses;
  for (size_t r = 0; r < t.size(); ++r) {
    if (t[r] == ignore_index) {
      losses.push_back(0);
      continue;
    }
    double largest = -std::numeric_limits<double>::infinity(), total = 0, loss = 0;
    for (size_t c = 0; c < classes; ++c) largest = std::max(largest, x[r * classes + c]);
    for (size_t c = 0; c < classes; ++c) total += std::exp(x[r * classes + c] - largest);
    for (size_t c = 0; c < classes; ++c) {
      const double share = smoothing / static_cast<double>(classes) + (static_cast<int64_t>(c) == t[r] ? 1 - smoothing : 0);
      if (share != 0) loss -= share * (x[r * classes + c] - largest - std::log(total));
    }
    losses.push_back(loss);
  }
  return losses;
}

TEST_CASE("cross_entropy agrees with plain loops") {
  manual_seed(1);
  for (DType dtype : {DType::float32, DType::float64}) {
    const double tolerance = dtype == DType::float64 ? 1e-13 : 3e-6;
    for (int64_t classes : {1, 2, 7, 17, 65, 1000, testing::is_slow() ? 1001 : 9001}) {
      for (double smoothing : {0.0, 0.1, 1.0}) {
        CAPTURE(classes);
        CAPTURE(smoothing);
        const Tensor logits = normal({3, 5, classes}, dtype, 3);
        Tensor targets = randint(classes, {3, 5});
        testing::on_host<int64_t>(targets)[4] = -100;
        testing::on_host<int64_t>(targets)[9] = -100;
        const auto expected = plain_losses(logits, targets, -100, smoothing);
        double total = 0;
        for (double loss : expected) total += loss;
        const Tensor each = cross_entropy(logits, targets, {.reduction = Reduction::none, .label_smoothing = smoothing});
        CHECK(each.shape() == Shape({3, 5}));
        const auto found = values(each);
        for (size_t r = 0; r < expected.size(); ++r) CHECK(std::fabs(found[r] - expected[r]) <= tolerance * (1 + std::fabs(expected[r])));
        CHECK(cross_entropy(logits, targets, {.reduction = Reduction::sum, .label_smoothing = smoothing}).item() ==
              doctest::Approx(total).epsilon(tolerance));
        CHECK(cross_entropy(logits, targets, {.label_smoothing = smoothing}).item() == doctest::Approx(total / 13).epsilon(tolerance));
      }
    }
  }
}

TEST_CASE("gradients of cross_entropy") {
  manual_seed(2);
  for (int64_t classes : {1, 7, 33}) {
    for (const Shape& rows : {Shape({}), Shape({7}), Shape({2, 3})}) {
      Shape shape = rows;
      shape.push_back(classes);
      const Tensor logits = normal(shape);
      Tensor targets = randint(classes, rows);
      if (targets.numel() > 1) testing::on_host<int64_t>(targets)[1] = 5 - 105;
      for (Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
        for (double smoothing : {0.0, 0.3}) {
          if (classes == 1 && rows.rank() == 0) continue;  // constant
          gradcheck(
              [&](const std::vector<Tensor>& in) {
                return cross_entropy(in[0], targets, {.reduction = reduction, .label_smoothing = smoothing});
              },
              {logits});
        }
      }
    }
  }
}

TEST_CASE("cross_entropy of extreme logits") {
  const Tensor big = from_vector<float>({1e4F, 0, -1e4F, 3e38F, -1e38F, 0}, {2, 3});
  const auto losses = values(cross_entropy(big, from_vector<int64_t>({1, 0}, {2}), {.reduction = Reduction::none}));
  CHECK(losses[0] == 1e4);
  CHECK(losses[1] == 0);
  const float low = -std::numeric_limits<float>::infinity();
  const Tensor filtered = parameter(from_vector<float>({low, 1, low, 1}, {1, 4}));
  const Tensor loss = cross_entropy(filtered, from_vector<int64_t>({1}, {1}));
  CHECK(loss.item() == doctest::Approx(std::log(2.0)));
  backward(loss);
  CHECK(values(grad(filtered)) == std::vector<double>{0, -0.5, 0, 0.5});
}

TEST_CASE("cross_entropy of ignored rows") {
  const Tensor logits = parameter(normal({3, 4}));
  const Tensor all_ignored = full({3}, 9, {.dtype = DType::int64});
  CHECK(std::isnan(cross_entropy(logits, all_ignored, {.ignore_index = 9}).item()));
  const Tensor total = cross_entropy(logits, all_ignored, {.reduction = Reduction::sum, .ignore_index = 9});
  CHECK(total.item() == 0);
  backward(total);
  CHECK(values(grad(logits)) == std::vector<double>(12, 0.0));
  CHECK(cross_entropy(normal({0, 4}), zeros({0}, {.dtype = DType::int64}), {.reduction = Reduction::sum}).item() == 0);
}

TEST_CASE("cross_entropy keeps the logits alone, and turns them into the gradient when nobody else needs them") {
  const int64_t before = bytes_in_use();
  {
    Tensor x = parameter(normal({64, 1000}, DType::float32));
    const Tensor targets = randint(1000, {64});
    const int64_t matrix = x.bytes(), start = bytes_in_use();
    Tensor loss = cross_entropy(add_scalar(x, 0), targets);
    CHECK(bytes_in_use() - start < matrix + matrix / 16);
    reset_peak_bytes();
    backward(loss);
    CHECK(peak_bytes() - start < matrix + matrix / 16);  // the gradient lies where the logits were
    const auto reused = values(grad(x));
    zero_grad(x);

    const Tensor logits = add_scalar(x, 0);  // held here: must stay as they are
    const auto kept = values(logits);
    loss = cross_entropy(logits, targets);
    backward(loss);
    CHECK(values(logits) == kept);
    CHECK(values(grad(x)) == reused);
    zero_grad(x);

    loss = cross_entropy(add_scalar(x, 0), targets);  // runs twice: must stay too
    backward(loss, {}, {.retain_graph = true});
    const auto first = values(grad(x));
    zero_grad(x);
    backward(loss);
    CHECK(values(grad(x)) == first);
    CHECK(first == reused);
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("cross_entropy gives the same bits for any number of threads") {
  manual_seed(3);
  const Tensor logits = normal({70, 1031}, DType::float32), targets = randint(1031, {70});
  const auto all = [&] {
    Tensor x = parameter(clone(logits));
    const Tensor loss = cross_entropy(x, targets, {.label_smoothing = 0.1});
    backward(loss);
    return std::pair(loss.to_vector<float>(), grad(x).to_vector<float>());
  };
  std::pair<std::vector<float>, std::vector<float>> one, three;
  {
    ThreadCount scope(1);
    one = all();
  }
  {
    ThreadCount scope(3);
    three = all();
  }
  CHECK(one == three);
}

TEST_CASE("mse_loss and binary_cross_entropy_with_logits: values and gradients") {
  manual_seed(4);
  const Tensor x = normal({3, 7}), t = normal({3, 7}), p = rand({3, 7}, {.dtype = DType::float64});
  const auto vx = values(x), vt = values(t), vp = values(p);
  double squares = 0, entropy = 0;
  for (size_t i = 0; i < 21; ++i) {
    squares += (vx[i] - vt[i]) * (vx[i] - vt[i]);
    entropy += std::max(vx[i], 0.0) - vx[i] * vp[i] + std::log1p(std::exp(-std::fabs(vx[i])));
  }
  CHECK(mse_loss(x, t).item() == doctest::Approx(squares / 21).epsilon(1e-13));
  CHECK(mse_loss(x, t, Reduction::sum).item() == doctest::Approx(squares).epsilon(1e-13));
  CHECK(mse_loss(x, t, Reduction::none).shape() == Shape({3, 7}));
  CHECK(binary_cross_entropy_with_logits(x, p).item() == doctest::Approx(entropy / 21).epsilon(1e-13));
  for (Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    gradcheck([&](const std::vector<Tensor>& in) { return mse_loss(in[0], in[1], reduction); }, {x, t});
    gradcheck([&](const std::vector<Tensor>& in) { return binary_cross_entropy_with_logits(in[0], in[1], reduction); }, {x, p});
  }
  const Tensor far = from_vector<float>({200, -200, 30}, {3}), one = ones({3});
  const auto losses = values(binary_cross_entropy_with_logits(far, one, Reduction::none));
  CHECK(losses[0] == doctest::Approx(0));
  CHECK(losses[1] == 200);
  CHECK(losses[2] == doctest::Approx(9.357622968840175e-14));  // log(1 + exp(-30)): nothing cancels
}

TEST_CASE("errors of losses") {
  const Tensor x = normal({2, 3});
  const Tensor t = from_vector<int64_t>({0, 3}, {2});
  CHECK_THROWS_WITH_AS((cross_entropy(x, t), synchronize()), "cross_entropy: target 3 is out of range for 3 classes (ignore_index is -100)",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, normal({2})), "cross_entropy: targets should be int64 class indices, got float64 [2]", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, arange(3)), "cross_entropy: logits [2, 3] need targets of shape [2], got [3]", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, arange(2), {.label_smoothing = 1.5}), "cross_entropy: label_smoothing should be in [0, 1], got 1.5",
                       Error);
  CHECK_THROWS_WITH_AS(mse_loss(x, normal({3, 2})), "mse_loss: x is [2, 3], target [3, 2]; their shapes must agree", Error);
  CHECK_THROWS_WITH_AS(
      binary_cross_entropy_with_logits(x, zeros({2, 3})),
      "binary_cross_entropy_with_logits: x is float64 [2, 3], but target is float32 [2, 3]; convert one with to(x, DType::float64)", Error);
}

}  // namespace
}  // namespace weft
