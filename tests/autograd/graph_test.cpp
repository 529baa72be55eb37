// The engine: recording, order, accumulation, freeing, and every error it reports.
#include "weft/autograd/graph.h"

#include <doctest/doctest.h>

#include <limits>
#include <thread>

#include "testing.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"

using namespace weft;
using weft::testing::error_of, weft::testing::has;

namespace {

const TensorOptions f64{.dtype = DType::float64};

Tensor leaf(const std::vector<double>& values) { return parameter(from_vector(values, {static_cast<int64_t>(values.size())})); }
std::vector<double> values(const Tensor& x) { return x.to_vector<double>(); }
std::vector<double> grad_of(const Tensor& x) { return grad(x).to_vector<double>(); }

}  // namespace

TEST_CASE("graph: a leaf collects the gradient of what was computed from it") {
  const Tensor x = leaf({1, 2, 3});
  CHECK(requires_grad(x));
  CHECK(is_parameter(x));
  CHECK(!grad(x).defined());
  const Tensor y = mul(square(x), from_vector<double>({1, 10, 100}, {3}));
  CHECK(requires_grad(y));
  CHECK(!is_parameter(y));
  backward(y, from_vector<double>({1, 2, 3}, {3}));
  CHECK(grad_of(x) == std::vector<double>{2, 80, 1800});
  CHECK(!requires_grad(square(zeros({3}))));
}

TEST_CASE("graph: NoGrad and detach record nothing") {
  const Tensor x = leaf({2});
  CHECK(grad_enabled());
  {
    const NoGrad outer;
    CHECK(!grad_enabled());
    CHECK(!requires_grad(square(x)));
    {
      const NoGrad inactive(false);
      CHECK(!grad_enabled());
    }
  }
  CHECK(grad_enabled());
  const Tensor fixed = detach(square(x));
  CHECK(!requires_grad(fixed));
  backward(mul(fixed, x));  // 4 x
  CHECK(grad_of(x) == std::vector<double>{4});
  CHECK(!requires_grad(stop_gradient(square(x))));
  CHECK(detach(x).storage() == x.storage());
}

TEST_CASE("graph: a tensor used many times") {
  const Tensor x = leaf({3});
  Tensor y = mul(x, x);           // x^2
  y = add(y, mul(y, y));          // x^2 + x^4
  y = add(y, add(x, add(x, x)));  // + 3 x
  backward(y);
  CHECK(grad_of(x) == std::vector<double>{2 * 3 + 4 * 27 + 3});
}

TEST_CASE("graph: gradients that share memory are not written into") {
  const Tensor a = leaf({1, 2}), b = leaf({3, 4}), dy = from_vector<double>({5, 6}, {2});
  const Tensor y = add(add(a, b), a);  // both operands of add get dy itself
  backward(y, dy, {.retain_graph = true});
  CHECK(grad_of(a) == std::vector<double>{10, 12});
  CHECK(grad_of(b) == std::vector<double>{5, 6});
  CHECK(values(dy) == std::vector<double>{5, 6});
  const Tensor seen = grad(b);
  backward(y, dy);
  CHECK(grad_of(b) == std::vector<double>{10, 12});
  CHECK(values(seen) == std::vector<double>{5, 6});  // a handle that somebody keeps stays as it was
  CHECK(values(dy) == std::vector<double>{5, 6});
}

TEST_CASE("graph: backward passes add up in leaves until cleared") {
  const Tensor x = leaf({1, 2});
  for (int i = 1; i <= 3; ++i) {
    backward(sum(square(x)));
    CHECK(grad_of(x) == std::vector<double>{2.0 * i, 4.0 * i});
  }
  zero_grad(x);
  CHECK(!grad(x).defined());
  set_grad(x, from_vector<double>({7, 8}, {2}));
  backward(sum(x));
  CHECK(grad_of(x) == std::vector<double>{8, 9});
}

TEST_CASE("graph: retain_graph, and the error after a graph was freed") {
  const Tensor x = leaf({2});
  const Tensor y = square(tanh(x));
  backward(y, {}, {.retain_graph = true});
  const double once = grad(x).item();
  backward(y);
  CHECK(grad(x).item() == 2 * once);
  const std::string error = error_of([&] { backward(y); });
  CHECK(has(error, "backward: the graph through square (called at "));
  CHECK(has(error, "graph_test.cpp:"));
  CHECK(has(error, "was freed by an earlier backward; pass {.retain_graph = true} there"));
}

TEST_CASE("graph: a closure is freed as soon as it has run") {
  const int64_t before = bytes_in_use();
  {
    const Tensor x = parameter(randn({1000}, 0, 1, f64));
    const Tensor y = sum(exp(exp(exp(x))));
    backward(y);
    CHECK(bytes_in_use() - before <= 2 * 8000 + 2 * 64 + 256);  // x and its gradient; y
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("graph: 100,000 ops forward, backward and released without recursion") {
  const int64_t before = bytes_in_use();
  {
    const Tensor x = leaf({1});
    Tensor y = x;
    for (int i = 0; i < 100000; ++i) y = add_scalar(y, 1);
    CHECK(y.item() == 100001);
    backward(y);
    CHECK(grad_of(x) == std::vector<double>{1});
  }
  {
    Tensor y = leaf({1});
    for (int i = 0; i < 100000; ++i) y = sigmoid(y);  // dropped without a backward, captures and all
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("graph: several outputs, some of them unused") {
  const Tensor x = leaf({2, 3});
  std::vector<bool> came;
  const auto split = [&](const Tensor& in) {
    Tensor first, second;
    {
      const NoGrad no_grad;
      first = mul_scalar(in, 2);
      second = square(in);
    }
    return record_many(
        "split", {first, second}, {in},
        [in = detach(in), &came](std::span<const Tensor> dys) -> Grads {
          came = {dys[0].defined(), dys[1].defined()};
          Tensor dx = zeros_like(in);
          if (dys[0].defined()) dx = add(dx, mul_scalar(dys[0], 2));
          if (dys[1].defined()) dx = add(dx, mul(dys[1], mul_scalar(in, 2)));
          return {dx};
        },
        Location::current());
  };
  auto ys = split(x);
  backward(sum(ys[1]));
  CHECK(came == std::vector<bool>{false, true});
  CHECK(grad_of(x) == std::vector<double>{4, 6});
  zero_grad(x);
  ys = split(x);
  const Tensor one = ones({2}, f64);
  backward(std::vector<Tensor>{ys[0], ys[1]}, std::vector<Tensor>{one, one});
  CHECK(came == std::vector<bool>{true, true});
  CHECK(grad_of(x) == std::vector<double>{6, 8});
}

TEST_CASE("graph: recording an undefined output is an error") {
  const Tensor x = parameter(ones({2}));
  CHECK_THROWS_WITH_AS(record(
                           "op", Tensor(), {x}, [](const Tensor& dy) -> Grads { return {dy}; }, Location::current()),
                       "op: output 0 is an undefined tensor; record needs the tensor that the op has computed", Error);
}

TEST_CASE("graph: an undefined gradient stops there") {
  const Tensor x = leaf({1}), w = leaf({5});
  const auto blocked = [](const Tensor& a, const Tensor& b) {
    Tensor y;
    {
      const NoGrad no_grad;
      y = add(a, b);
    }
    return record(
        "blocked", y, {a, b},
        [](const Tensor& dy) -> Grads {
          return {Tensor(), dy};
        },
        Location::current());
  };
  backward(blocked(square(x), w));
  CHECK(!grad(x).defined());
  CHECK(grad_of(w) == std::vector<double>{1});
}

TEST_CASE("graph: gradients with respect to leaves and intermediate results leave the leaves alone") {
  const Tensor x = leaf({3}), unused = leaf({1});
  const Tensor h = square(x);
  const Tensor y = mul(h, h);
  const Grads found = gradients(std::vector<Tensor>{y}, {}, std::vector<Tensor>{h, x, unused}, {.retain_graph = true});
  CHECK(values(found[0]) == std::vector<double>{18});
  CHECK(values(found[1]) == std::vector<double>{108});
  CHECK(!found[2].defined());
  CHECK(!grad(x).defined());
  // Only what lies between y and h is visited: square is still there afterwards.
  gradients(std::vector<Tensor>{y}, {}, std::vector<Tensor>{h});
  backward(h);
  CHECK(grad_of(x) == std::vector<double>{6});
  CHECK(error_of([&] { gradients(std::vector<Tensor>{y}, {}, std::vector<Tensor>{zeros({1}, f64)}); }) ==
        "gradients: float64 [1] does not require a gradient; make it a parameter first");
}

TEST_CASE("graph: gradients of one output") {
  const Tensor x = leaf({3, 1}), w = leaf({2, 5});
  const Tensor y = mul(square(x), w);
  const Grads weighted = gradients(y, {x, w}, from_vector<double>({1, -1}, {2}), {.retain_graph = true});
  CHECK(values(weighted[0]) == std::vector<double>{12, -10});
  CHECK(values(weighted[1]) == std::vector<double>{9, -1});
  CHECK(values(gradients(sum(y), {w})[0]) == std::vector<double>{9, 1});
  CHECK(has(error_of([&] { gradients(square(x), {x}); }), "float64 [2] is not a scalar; pass a cotangent"));
}

TEST_CASE("graph: frozen leaves") {
  Tensor x = leaf({2}), w = leaf({3});
  const Tensor y = mul(x, w);
  set_requires_grad(w, false);
  CHECK(!requires_grad(w));
  CHECK(is_parameter(w));
  backward(y);
  CHECK(grad_of(x) == std::vector<double>{3});
  CHECK(!grad(w).defined());
  CHECK(!requires_grad(square(w)));
  set_requires_grad(w, true);
  CHECK(requires_grad(square(w)));
  Tensor plain = zeros({2});
  set_requires_grad(plain, true);
  CHECK(is_parameter(plain));
  Tensor result = square(x);
  CHECK(error_of([&] { set_requires_grad(result, false); }) ==
        "set_requires_grad: the tensor is the result of op square; only parameters can be frozen, use detach here");
}

TEST_CASE("graph: what changed in place after the forward is an error") {
  Tensor w = leaf({1, 2});
  const Tensor x = leaf({3, 4});
  Tensor y = mul(x, w);
  w.copy_from(from_vector<double>({9, 9}, {2}));
  const std::string error = error_of([&] { backward(sum(y)); });
  CHECK(has(error, "backward: input 1 of mul (called at "));
  CHECK(has(error, "was changed in place after the forward; run the forward again before backward"));
  Tensor z = exp(x);
  const Tensor loss = sum(z);
  z.copy_from(zeros({2}, f64));
  CHECK(has(error_of([&] { backward(loss); }), "was changed in place after the forward"));
  y = mul(x, w);
  backward(sum(y));
  w.bump_version();  // after the backward it may change
  CHECK(grad_of(x) == std::vector<double>{9, 9});
}

TEST_CASE("graph: errors of backward") {
  const Tensor x = leaf({1, 2});
  CHECK(error_of([&] { backward(square(x)); }) ==
        "backward: float64 [2] is not a scalar; pass a cotangent of the same shape, or reduce it with sum or mean first");
  CHECK(error_of([&] { backward(square(x), ones({3}, f64)); }) == "backward: the output is float64 [2], its cotangent float64 [3]");
  CHECK(error_of([&] { backward(square(x), ones({2})); }) == "backward: the output is float64 [2], its cotangent float32 [2]");
  CHECK(error_of([&] { backward(zeros({})); }) ==
        "backward: float32 [] does not depend on any parameter, so there is nothing to differentiate");
  CHECK(error_of([&] { backward(std::vector<Tensor>{x, x}, std::vector<Tensor>{x}); }) == "backward: 2 outputs but 1 cotangents");
  CHECK(error_of([&] { grad(square(x)); }) ==
        "grad: float64 [2] is not a parameter; gradients are kept for leaves only (use gradients for intermediate results)");
  CHECK(error_of([&] { set_grad(x, ones({3}, f64)); }) == "set_grad: the parameter is float64 [2], the gradient float64 [3]");
  CHECK(error_of([&] { set_grad(zeros({2}), {}); }) == "set_grad: float32 [2] is not a parameter");
  CHECK(error_of([&] { parameter(zeros({2}, {.dtype = DType::int64})); }) == "parameter: expected a floating point tensor, got int64 [2]");
}

TEST_CASE("graph: errors of a faulty op") {
  const Tensor x = leaf({1, 2});
  CHECK(error_of([&] {
          record(
              "fused", square(x), {x}, [](const Tensor& dy) -> Grads { return {dy}; }, Location::current());
        }) == "fused: output 0 already carries a graph (op square); compute the forward of a fused op under NoGrad");
  const auto faulty = [&](const Grads& returned) {
    return record(
        "faulty", zeros({2}, f64), {x}, [returned](const Tensor&) -> Grads { return returned; }, Location::current());
  };
  CHECK(error_of([&] { backward(sum(faulty({}))); }) == "backward of faulty: returned 0 gradients for 1 inputs");
  CHECK(error_of([&] { backward(sum(faulty({zeros({3}, f64)}))); }) ==
        "backward of faulty: the gradient for the output of parameter should be float64 [2], got float64 [3]");
  CHECK(error_of([&] { backward(sum(faulty({zeros({2})}))); }) ==
        "backward of faulty: the gradient for the output of parameter should be float64 [2], got float32 [2]");
}

TEST_CASE("graph: anomaly mode names the op and the line where the first NaN or infinity came up") {
  const Tensor x = leaf({0, 1});
  {
    const AnomalyMode anomaly;
    const std::string forward = error_of([&] { log(x); });
    CHECK(has(forward, "anomaly: the forward of log called at "));
    CHECK(has(forward, "graph_test.cpp:" + std::to_string(__LINE__ - 2)));
    CHECK(has(forward, " produced 1 NaN or infinite elements in float64 [2]"));
    const Tensor y = sqrt(x);
    const std::string in_backward = error_of([&] { backward(sum(y)); });
    CHECK(has(in_backward, "anomaly: the backward of sqrt called at "));
    CHECK(has(in_backward, "graph_test.cpp:" + std::to_string(__LINE__ - 3)));
    CHECK(has(in_backward, " produced 1 NaN or infinite elements in the gradient of input 0"));
    const std::string by_operator = error_of([&] { 1 / x; });
    CHECK(has(by_operator, "rdiv_scalar called at "));
    CHECK(has(by_operator, "graph_test.cpp:" + std::to_string(__LINE__ - 2)));
  }
  CHECK(log(x).to_vector<double>()[0] == -std::numeric_limits<double>::infinity());
}

TEST_CASE("graph: anomaly mode lets infinities pass that were asked for or came in") {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const Tensor x = leaf({1, 2, 3, 4}), mask = from_vector<bool>({true, false, false, true}, {4}), rest = logical_not(mask);
  const AnomalyMode anomaly;
  const Tensor filled = masked_fill(x, mask, -inf);
  const Tensor shifted = filled + leaf({1, 1, 1, 1});
  backward(sum(softmax(shifted)));
  CHECK(grad_of(x).size() == 4);
  CHECK(values(pad(x, 0, 1, 0, -inf))[0] == -inf);
  const Tensor logs = log_softmax(x, -1, rest);
  CHECK(values(logs)[0] == -inf);
  CHECK(has(error_of([&] { log_softmax(shifted - shifted); }), "anomaly: the forward of sub called at "));
  CHECK(has(error_of([&] { masked_fill(x, mask, std::numeric_limits<double>::quiet_NaN()); }), "produced 2 NaN or infinite elements"));
  CHECK(has(error_of([&] { exp(1000 * x); }), "anomaly: the forward of exp called at "));
  {
    const AnomalyMode inactive(false);  // leaves the outer one on
    CHECK(has(error_of([&] { log(x - x); }), "anomaly: the forward of log called at "));
  }
  CHECK(has(error_of([&] { log(x - x); }), "anomaly: the forward of log called at "));
}

TEST_CASE("graph: two threads with tensors of their own") {
  const auto train = [](double start, double* result) {
    const Tensor x = parameter(full({100}, start, f64));
    Tensor total = zeros({}, f64);
    for (int i = 0; i < 200; ++i) {
      zero_grad(x);
      backward(sum(mul(tanh(x), sigmoid(x))));
      total = add(total, sum(grad(x)));
    }
    *result = total.item();
  };
  double alone = 0, first = 0, second = 0;
  train(0.3, &alone);
  std::thread other(train, 0.3, &first);
  train(0.3, &second);
  other.join();
  CHECK(first == alone);
  CHECK(second == alone);
}
