// Optimizers against numbers from PyTorch; groups, state, clipping, averaged weights.

#include <cmath>
#include <functional>
#include <memory>

#include "testing.h"
#include "weft/autograd/ops.h"
#include "weft/core/device.h"
#include "weft/core/random.h"
#include "weft/nn/linear.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/ema.h"
#include "weft/train/sgd.h"

namespace weft {
namespace {

using testing::ThreadCount;

constexpr TensorOptions f64{.dtype = DType::float64};

std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }
Tensor doubles(const std::vector<double>& v) { return from_vector<double>(v, {static_cast<int64_t>(v.size())}); }

// The gradients of the PyTorch runs below: step t = 0, 1, ...
Tensor gradient_at(double t) { return doubles({std::sin(1 + t), 0.5 * std::cos(2 * t), -3 + t}); }

void check_close(const Tensor& x, const std::vector<double>& expected) {
  const auto found = values(x);
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) < 1e-14);
}

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(std::vector<Tensor>)>;

TEST_CASE("Adam, AdamW and SGD take PyTorch's steps") {
  struct Case {
    const char* name;
    MakeOptimizer make;
    std::vector<double> after_five;
  };
  const auto adam = [](const AdamOptions& o) { return [o](std::vector<Tensor> p) { return std::make_unique<Adam>(std::move(p), o); }; };
  const auto adamw = [](const AdamWOptions& o) { return [o](std::vector<Tensor> p) { return std::make_unique<AdamW>(std::move(p), o); }; };
  const auto sgd = [](const SgdOptions& o) { return [o](std::vector<Tensor> p) { return std::make_unique<Sgd>(std::move(p), o); }; };
  const std::vector<Case> cases = {
      {"adam", adam({.lr = 0.1}), {0.19674082374650775, -1.1687595025504347, 2.4052548714970916}},
      {"adam, l2, amsgrad",
       adam({.lr = 0.1, .beta1 = 0.8, .beta2 = 0.9, .eps = 1e-3, .weight_decay = 0.2, .amsgrad = true}),
       {0.21176320260950546, -0.9458731113902012, 2.3341394697991302}},
      {"adam, maximize",
       adam({.lr = 0.1, .weight_decay = 0.2, .maximize = true}),
       {0.7621090177617139, -0.6881413103995876, 1.5735522757490443}},
      {"adamw",
       adamw({.lr = 0.1, .beta1 = 0.7, .beta2 = 0.95, .weight_decay = 0.3}),
       {0.21499120124299798, -0.9868138594495657, 2.0472285529680674}},
      {"adamw, amsgrad", adamw({.lr = 0.05, .amsgrad = true}), {0.34734588049725684, -1.081755914047714, 2.197378502929753}},
      {"sgd", sgd({.lr = 0.1, .weight_decay = 0.1}), {0.4634193220129743, -0.9870521292905984, 2.3822287028}},
      {"sgd, momentum",
       sgd({.lr = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1}),
       {0.04024650574766689, -1.0443241420823397, 3.57837827455028}},
      {"sgd, nesterov", sgd({.lr = 0.1, .momentum = 0.9, .nesterov = true}), {0.07211272521266833, -1.1529579045045983, 4.378597}},
      {"sgd, maximize",
       sgd({.lr = 0.1, .momentum = 0.5, .weight_decay = 0.1, .maximize = true}),
       {0.5971022099695307, -0.8585834906150553, 0.8522571368}}};
  for (const Case& c : cases) {
    CAPTURE(c.name);
    const Tensor p = parameter(doubles({0.5, -1, 2})), small = parameter(to(doubles({0.5, -1, 2}), DType::float32));
    const auto optimizer = c.make({p, small});
    for (int t = 0; t < 5; ++t) {
      set_grad(p, gradient_at(t));
      set_grad(small, to(gradient_at(t), DType::float32));
      optimizer->step();
    }
    check_close(p, c.after_five);
    for (size_t i = 0; i < 3; ++i) CHECK(values(small)[i] == doctest::Approx(c.after_five[i]).epsilon(1e-5));

    // The gradient scale is the same as scaled gradients.
    const Tensor q = parameter(doubles({0.5, -1, 2}));
    const auto scaled = c.make({q});
    for (int t = 0; t < 5; ++t) {
      set_grad(q, mul_scalar(gradient_at(t), 4));
      scaled->step(0.25);
    }
    check_close(q, c.after_five);
  }
}

TEST_CASE("steps that are left out for a scale that is not finite do not count") {
  const auto train = [](const MakeOptimizer& make, bool with_overflows) {
    const DType small = default_device().is_cuda() ? DType::bfloat16 : DType::float32;  // with a master
    const Tensor p = parameter(doubles({0.5, -1, 2})), half = parameter(to(doubles({0.5, -1, 2}), small));
    const auto optimizer = make({p, half});
    for (int t = 0; t < 4; ++t) {
      for (const Tensor& x : {p, half}) set_grad(x, to(gradient_at(t), x.dtype()));
      if (with_overflows && t != 2) {
        optimizer->step(scalar(t == 0 ? HUGE_VAL : std::nan(""), f64));
        CHECK(values(optimizer->state_dict()[0].second) == std::vector<double>{static_cast<double>(t)});
      }
      optimizer->step(scalar(0.5, f64));
    }
    auto all = values(p);
    for (double x : values(half)) all.push_back(x);
    return all;
  };
  for (const MakeOptimizer& make : std::vector<MakeOptimizer>{
           [](auto p) { return std::make_unique<Adam>(std::move(p), AdamOptions{.lr = 0.1}); },
           [](auto p) { return std::make_unique<Sgd>(std::move(p), SgdOptions{.lr = 0.1, .momentum = 0.9, .dampening = 0.3}); }}) {
    CHECK(train(make, true) == train(make, false));
  }
}

TEST_CASE("parameters of any size are updated in full, to the same bits for any number of threads") {
  manual_seed(1);
  const std::vector<Shape> shapes = {{1}, {7}, {33}, {16385}, {3, 20000}, {0}, {}};
  std::vector<Tensor> start, gradients;
  for (const Shape& shape : shapes) {
    start.push_back(randn(shape));
    gradients.push_back(randn(shape));
  }
  const auto run = [&](int threads, bool with_momentum) {
    ThreadCount scope(threads);
    std::vector<Tensor> p;
    for (const Tensor& x : start) p.push_back(parameter(clone(x)));
    Adam adam(p, {.lr = 0.1, .weight_decay = 0.1});
    Sgd sgd(p, {.lr = 0.1, .momentum = 0.9});
    for (int t = 0; t < 2; ++t) {
      for (size_t i = 0; i < p.size(); ++i) set_grad(p[i], gradients[i]);
      with_momentum ? sgd.step() : adam.step();
    }
    std::vector<float> all;
    for (const Tensor& x : p) {
      const auto v = x.to_vector<float>();
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  };
  for (bool with_momentum : {false, true}) CHECK(run(1, with_momentum) == run(3, with_momentum));
  // Every element follows the same formula, wherever it lies.
  const auto all = run(2, true);
  size_t at = 0;
  for (size_t i = 0; i < start.size(); ++i) {
    const auto x = values(start[i]), g = values(gradients[i]);
    for (size_t e = 0; e < x.size(); ++e, ++at) CHECK(all[at] == doctest::Approx(x[e] - 0.1 * g[e] - 0.1 * 1.9 * g[e]).epsilon(1e-5));
  }
}

TEST_CASE("groups have a learning rate and a weight decay of their own") {
  const Tensor a = parameter(doubles({1, 2})), b = parameter(doubles({3}));
  Sgd optimizer({{.parameters = {a}, .lr = 0.1, .weight_decay = 0}, {.parameters = {b}, .lr = 0.5, .weight_decay = 1}});
  set_grad(a, doubles({1, 1}));
  set_grad(b, doubles({2}));
  optimizer.step();
  check_close(a, {0.9, 1.9});
  check_close(b, {3 - 0.5 * (2 + 3)});
  optimizer.set_lr(0);
  optimizer.step();
  check_close(a, {0.9, 1.9});
  optimizer.groups()[0].lr = 1;
  optimizer.step();
  check_close(a, {-0.1, 0.9});
  CHECK(optimizer.groups().size() == 2);
  optimizer.groups()[0] = {.lr = 0.5, .weight_decay = 1};
  optimizer.step();
  check_close(a, {-0.1 - 0.5 * (1 - 0.1), 0.9 - 0.5 * (1 + 0.9)});
  optimizer.zero_grad();
  CHECK(!grad(a).defined());
  CHECK(optimizer.parameters().size() == 2);
}

TEST_CASE("an optimizer that was built before the weights were converted says so") {
  Linear layer({.in = 2, .out = 1});
  Adam stale(parameters(layer));
  convert(layer, DType::float64);
  backward(sum(layer(doubles({1, 2}))));
  const auto replaced = doctest::Contains("adam: none of the 2 parameters has a gradient, and convert(model, ...) has made new ones since");
  CHECK_THROWS_WITH_AS(stale.step(), replaced, Error);
  Adam fresh(parameters(layer));
  fresh.step();
  fresh.zero_grad();
  fresh.step();  // without any gradient now, which is no mistake
  convert(layer, DType::float32);
  CHECK_THROWS_WITH_AS(fresh.step(), replaced, Error);
  Adam other(parameters(layer));
  CHECK_THROWS_WITH_AS(other.step(), doctest::Contains("none of the 2 parameters has a gradient or ever had one; call backward first"),
                       Error);
}

TEST_CASE("parameters without a gradient are left alone and count their own steps") {
  const Tensor a = parameter(doubles({0.5, -1, 2})), late = parameter(doubles({0.5, -1, 2}));
  Adam optimizer({a, late}, {.lr = 0.1});
  for (int t = 0; t < 3; ++t) {
    set_grad(a, gradient_at(t));
    optimizer.step();
  }
  check_close(late, {0.5, -1, 2});
  optimizer.zero_grad();
  const auto before = values(a);
  for (int t = 0; t < 5; ++t) {
    set_grad(late, gradient_at(t));
    optimizer.step();
  }
  check_close(late, {0.19674082374650775, -1.1687595025504347, 2.4052548714970916});
  check_close(a, before);
}

TEST_CASE("state goes out and comes back: a resumed optimizer takes the same steps") {
  const std::vector<MakeOptimizer> makers = {
      [](std::vector<Tensor> p) { return std::make_unique<Adam>(std::move(p), AdamOptions{.lr = 0.1, .amsgrad = true}); },
      [](std::vector<Tensor> p) { return std::make_unique<Sgd>(std::move(p), SgdOptions{.lr = 0.1, .momentum = 0.9}); }};
  for (const auto& make : makers) {
    const Tensor p = parameter(doubles({0.5, -1, 2})), unused = parameter(doubles({1}));
    const auto first = make({p, unused});
    for (int t = 0; t < 2; ++t) {
      set_grad(p, gradient_at(t));
      first->step();
    }
    const Tensor q = parameter(clone(p)), q_unused = parameter(doubles({1}));
    const auto second = make({q, q_unused});
    StateDict copy;
    for (const auto& [name, value] : first->state_dict()) {
      CHECK(name.starts_with("0."));
      copy.emplace(copy.begin(), name, clone(value));  // order does not matter
    }
    second->load_state_dict(copy);
    for (int t = 2; t < 4; ++t) {
      set_grad(p, gradient_at(t));
      set_grad(q, gradient_at(t));
      first->step();
      second->step();
    }
    CHECK(values(p) == values(q));
  }
  const Tensor p = parameter(doubles({1}));
  Adam adam({p});
  set_grad(p, doubles({1}));
  adam.step();
  const StateDict state = adam.state_dict();
  CHECK(state.size() == 3);
  CHECK(state[0].first == "0.step");
  CHECK(state[0].second.item() == 1);
  CHECK(state[1].first == "0.exp_avg");
  CHECK(state[2].first == "0.exp_avg_sq");
  CHECK_THROWS_WITH_AS(adam.load_state_dict({{"0.momentum_buffer", p}, {"7.step", p}, {"x", p}, {"\xc3\xa9.step", p}}),
                       "adam: the state has names that do not belong to 1 parameters: 0.momentum_buffer, 7.step, x, \xc3\xa9.step", Error);
  CHECK_THROWS_WITH_AS(adam.load_state_dict({{"0.exp_avg", zeros({2}, f64)}}), "adam: state 0.exp_avg should be [1], got float64 [2]",
                       Error);
}

TEST_CASE("a step whose gradients are not finite is left out") {
  for (double bad : {std::nan(""), HUGE_VAL}) {
    const Tensor p = parameter(doubles({1, 2}));
    AdamW adam({p}, {.lr = 0.1});
    const auto step = [&](double gradient) {
      set_grad(p, doubles({gradient, 1}));
      adam.step(clip_scale(grad_norm(adam.parameters()), 1));
    };
    step(0.5);
    const std::vector<double> before = p.to_vector<double>();
    const std::vector<double> moment = adam.state_dict()[1].second.to_vector<double>();
    step(bad);
    CHECK(p.to_vector<double>() == before);
    CHECK(adam.state_dict()[1].second.to_vector<double>() == moment);
    step(0.5);
    CHECK(p.to_vector<double>() != before);
  }
}

TEST_CASE("clipping by the norm of all gradients") {
  const Tensor a = parameter(doubles({0, 0})), b = parameter(to(doubles({0}), DType::float32)), c = parameter(doubles({0}));
  set_grad(a, doubles({3, 4}));
  set_grad(b, full({1}, 12));
  const std::vector<Tensor> all = {a, b, c};
  const auto norm_of = [](std::span<const Tensor> parameters) { return grad_norm(parameters).item(); };
  const auto scale_of = [](double norm, double max_norm) { return clip_scale(scalar(norm, f64), max_norm).item(); };
  CHECK(norm_of(all) == 13);
  CHECK(scale_of(13, 26) == 1);
  CHECK(scale_of(13, 6.5) == doctest::Approx(0.5).epsilon(1e-6));
  for (double norm : {std::nan(""), HUGE_VAL}) CHECK(std::isnan(scale_of(norm, 1)));
  CHECK(scale_of(13, HUGE_VAL) == 1);
  const Tensor shared = grad(a);
  CHECK(clip_grad_norm(all, 26).item() == 13);
  check_close(grad(a), {3, 4});
  CHECK(clip_grad_norm(all, 1.3).item() == 13);
  const double scale = 1.3 / (13 + 1e-6);
  check_close(grad(a), {3 * scale, 4 * scale});
  check_close(shared, {3, 4});
  CHECK(!grad(c).defined());
  CHECK(norm_of(std::vector<Tensor>{c}) == 0);
  // float32 gradients whose squares leave the range of float32
  set_grad(b, full({1}, 1e30));
  CHECK(norm_of(std::vector<Tensor>{b}) == doctest::Approx(1e30));
  manual_seed(2);
  const Tensor big = parameter(zeros({70001}));
  set_grad(big, randn({70001}));
  long double squares = 0;  // many more bits than the sum under test
  for (float g : grad(big).to_vector<float>()) squares += static_cast<long double>(g) * static_cast<long double>(g);
  const std::vector<Tensor> one = {big};
  CHECK(norm_of(one) == doctest::Approx(static_cast<double>(std::sqrt(squares))).epsilon(1e-14));
  double with_three = 0;
  {
    ThreadCount scope(3);
    with_three = norm_of(one);
  }
  ThreadCount scope(1);
  CHECK(norm_of(one) == with_three);
}

TEST_CASE("a backward over weights that a step has changed is an error") {
  const Tensor p = parameter(doubles({1, 2}));
  const Tensor y = sum(square(p));
  set_grad(p, doubles({1, 1}));
  Sgd(std::vector<Tensor>{p}).step();
  CHECK_THROWS_AS(backward(y), Error);
  CHECK(p.version() == 1);
}

TEST_CASE("averaged weights") {
  const Tensor a = parameter(doubles({1, 2})), b = parameter(to(doubles({5}), DType::float32));
  Ema ema({a, b}, 0.75);
  Tensor changed = a;
  changed.copy_from(doubles({5, 6}));
  ema.update();
  check_close(ema.averages()[0], {2, 3});
  CHECK(values(ema.averages()[1])[0] == 5);
  {
    AveragedWeights averaged(ema);
    check_close(a, {2, 3});
  }
  check_close(a, {5, 6});
  ema.update();
  check_close(ema.averages()[0], {2.75, 3.75});
  Ema other({a, b}, 0.75);
  StateDict state = ema.state_dict();
  std::swap(state[0], state[1]);
  other.load_state_dict(state);
  check_close(other.averages()[0], {2.75, 3.75});
  CHECK_THROWS_WITH_AS(other.load_state_dict({}), "ema: the state has 0 averages for 2 parameters", Error);
  CHECK_THROWS_WITH_AS(other.load_state_dict({{"0", a}, {"x", b}}), "ema: the state has an average \"x\"; expected \"0\" to \"1\"", Error);
  CHECK_THROWS_WITH_AS(other.load_state_dict({{"0", b}, {"1", b}}), "ema: average 0 should be [2], got [1]", Error);
  CHECK_THROWS_WITH_AS(Ema({a}, 1.5), "ema: decay should be in [0, 1], got 1.5", Error);
}

TEST_CASE("errors of optimizers") {
  const Tensor p = parameter(doubles({1, 2}));
  CHECK_THROWS_WITH_AS(Sgd(std::vector<Tensor>{doubles({1})}), "sgd: float64 [1] is not a parameter; make it one with parameter(x)", Error);
  CHECK_THROWS_WITH_AS(Adam(std::vector<Tensor>{p, p}), "adam: parameter 1 [2] is given twice", Error);
  CHECK_THROWS_WITH_AS(Adam(std::vector<Tensor>{}), "adam: no parameters given", Error);
  CHECK_THROWS_WITH_AS(Adam({p}, {.lr = NAN}), "adam: lr should be finite and at least 0, got nan", Error);
  CHECK_THROWS_WITH_AS(Adam({p}, {.lr = -0.1}), "adam: lr should be finite and at least 0, got -0.1", Error);
  CHECK_THROWS_WITH_AS(Adam({p}, {.weight_decay = -1}), "adam: weight_decay should be finite and at least 0, got -1", Error);
  CHECK_THROWS_WITH_AS(Adam({p}, {.eps = -1}), "adam: eps should be finite and at least 0, got -1", Error);
  CHECK_THROWS_WITH_AS(Sgd({p}, {.momentum = 5}), "sgd: momentum should be in [0, 1], got 5", Error);
  CHECK_THROWS_WITH_AS(Sgd({p}, {.dampening = NAN}), "sgd: dampening should be finite, got nan", Error);
  Sgd sgd({p}, {.lr = 0.1});
  CHECK_THROWS_WITH_AS(sgd.set_lr(-1), "sgd: lr should be finite and at least 0, got -1", Error);
  set_grad(p, zeros_like(p));
  sgd.groups()[0].lr = NAN;
  CHECK_THROWS_WITH_AS(sgd.step(), "sgd: lr should be finite and at least 0, got nan", Error);
  CHECK_THROWS_WITH_AS(clip_grad_norm({p}, -1), "clip: max_norm must be at least 0, got -1", Error);
  CHECK_THROWS_WITH_AS(Adam({p}, {.beta2 = 1}), "adam: betas should be in [0, 1), got 0.9 and 1", Error);
  CHECK_THROWS_WITH_AS(Sgd({p}, {.nesterov = true}), "sgd: nesterov needs momentum above 0 and dampening 0, got 0 and 0", Error);
}

}  // namespace
}  // namespace weft
