// Checkpointing must be invisible but for memory: the same values, gradients and random numbers as without.
#include "weft/autograd/checkpoint.h"

#include "testing.h"
#include "weft/core/device.h"
#include "weft/core/random.h"

namespace weft {
namespace {

using namespace testing;
using Inputs = std::vector<Tensor>;
using Function = std::function<Tensor(const Inputs&)>;

// f itself, or checkpointed.
Tensor apply(bool checkpointed, const Function& f, const Inputs& inputs) { return checkpointed ? checkpoint(f, inputs) : f(inputs); }

// Runs the program with and without checkpoints: every tensor it returns must agree to the bit.
void check_invisible(const std::function<Inputs(bool checkpointed)>& program) {
  manual_seed(11);
  const Inputs plain = program(false);
  const uint64_t offset = default_generator().offset();
  manual_seed(11);
  const Inputs checkpointed = program(true);
  CHECK(default_generator().offset() == offset);
  REQUIRE(plain.size() == checkpointed.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    CAPTURE(i);
    CHECK(plain[i].to_vector<double>() == checkpointed[i].to_vector<double>());
  }
}

TEST_CASE("checkpoint: same values and gradients, dropout repeated, before and behind it too") {
  const Tensor x0 = normal({5, 7}, 1), w0 = normal({7, 7}, 2), b0 = normal({7}, 3), dy = normal({5, 7}, 4);
  check_invisible([&](bool checkpointed) {
    const Tensor w = parameter(clone(w0)), b = parameter(clone(b0)), x = parameter(clone(x0));
    const auto block = [&](const Inputs& in) { return add(in[0], dropout(tanh(linear(in[0], w, b)), 0.4, default_generator().next())); };
    Tensor y = dropout(x, 0.2, default_generator().next());
    for (int layer = 0; layer < 3; ++layer) y = apply(checkpointed, block, {y});
    y = dropout(y, 0.3, default_generator().next());
    backward(y, dy);
    return Inputs{y, grad(w), grad(b), grad(x)};
  });
}

TEST_CASE("checkpoint: only the inputs stay in memory, and nothing is left behind") {
  const Tensor x = parameter(normal({64, 64}));
  const auto f = [](const Inputs& in) {
    Tensor y = in[0];
    for (int i = 0; i < 20; ++i) y = tanh(y);
    return y;
  };
  const int64_t before = bytes_in_use();
  {
    const Tensor y = checkpoint(f, {x});
    CHECK(bytes_in_use() - before == y.bytes());
    backward(y, normal({64, 64}, 2));
    zero_grad(x);
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("checkpoint: f runs once in the forward and once in the backward") {
  int runs = 0;
  const Tensor x = parameter(normal({3}));
  const auto f = [&](const Inputs& in) {
    ++runs;
    return square(in[0]);
  };
  const Tensor y = checkpoint(f, {x});
  CHECK(runs == 1);
  backward(sum(y));
  CHECK(runs == 2);
  {
    NoGrad no_grad;
    CHECK(!requires_grad(checkpoint(f, {x})));
  }
  CHECK(!requires_grad(checkpoint(f, {normal({3})})));  // nothing to differentiate
}

TEST_CASE("checkpoint: gradients reach parameters that f captures, without any differentiable input") {
  const Tensor x = normal({2, 3}), w0 = normal({3, 3}, 2), dy = normal({2, 3}, 3);
  check_invisible([&](bool checkpointed) {
    const Tensor w = parameter(clone(w0)), unused = parameter(normal({2}, 4));
    const Tensor y = apply(checkpointed, [&](const Inputs& in) { return linear(in[0], w); }, {x});
    backward(y, dy);
    CHECK(!grad(unused).defined());
    return Inputs{y, grad(w)};
  });
}

TEST_CASE("checkpoint: gradients reach results of earlier ops that f captures and that are used elsewhere too") {
  const Tensor x0 = normal({4, 3}, 1), w0 = normal({3, 3}, 2), dy = normal({4, 3}, 3);
  check_invisible([&](bool checkpointed) {
    const Tensor x = parameter(clone(x0)), w = parameter(clone(w0));
    const Tensor hidden = tanh(matmul(x, w)), gate = sigmoid(hidden);
    const std::vector<Tensor> halves = split(hidden, {1, 2}, 1);
    const Tensor y = apply(checkpointed,
                           [&](const Inputs& in) {
                             return mul(matmul(in[0], w), add(gate, concat({halves[1], halves[0]}, 1)));
                           },
                           {hidden});
    backward(add(y, hidden), dy);
    return Inputs{y, grad(x), grad(w)};
  });
}

TEST_CASE("checkpoint: inside a checkpoint, and with fused ops and stop-gradients inside") {
  const Tensor x0 = normal({4, 3}, 1), w0 = normal({3, 3}, 2), dy = normal({4, 3}, 3);
  check_invisible([&](bool checkpointed) {
    const Tensor x = parameter(clone(x0)), w = parameter(clone(w0)), v = parameter(clone(w0));
    const auto inner = [&](const Inputs& in) { return dropout(linear(in[0], w), 0.3, default_generator().next()); };
    const auto outer = [&](const Inputs& in) {
      Tensor scale;
      {
        NoGrad no_grad;
        scale = linear(in[0], v);
      }
      return mul(softmax(apply(checkpointed, inner, {tanh(in[0])})), scale);
    };
    const Tensor y = apply(checkpointed, outer, {x});
    backward(y, dy);
    CHECK(!grad(v).defined());
    return Inputs{y, grad(x), grad(w)};
  });
}

TEST_CASE("checkpoint: f may return an input, a captured tensor, or a view") {
  const Tensor dy = normal({2, 3}, 3);
  check_invisible([&](bool checkpointed) {
    const Tensor x = parameter(normal({2, 3}, 1)), w = parameter(normal({2, 3}, 2));
    const Tensor same = apply(checkpointed, [](const Inputs& in) { return in[0]; }, {x});
    const Tensor captured = apply(checkpointed, [&](const Inputs&) { return w; }, {x});
    const Tensor view = apply(checkpointed, [](const Inputs& in) { return reshape(slice(in[0], 0, 0, 1), {3, 1}); }, {x});
    backward(std::vector<Tensor>{same, captured, view}, std::vector<Tensor>{dy, dy, normal({3, 1}, 4)});
    return Inputs{same, captured, view, grad(x), grad(w)};
  });
}

TEST_CASE("checkpoint: gradients() through it touches no leaf, a retained graph runs again") {
  const Tensor x = parameter(normal({2, 3}, 1)), w = parameter(normal({3, 3}, 2)), dy = normal({2, 3}, 3);
  const auto f = [&](const Inputs& in) { return tanh(linear(in[0], w)); };
  const Tensor y = checkpoint(f, {x});
  const std::vector<Tensor> ys{y}, dys{dy}, xs{x, w};
  const Grads first = gradients(ys, dys, xs, {.retain_graph = true});
  CHECK(!grad(w).defined());
  backward(y, dy, {.retain_graph = true});
  backward(y, dy);
  for (size_t i = 0; i < xs.size(); ++i) CHECK(close(grad(xs[i]), mul_scalar(first[i], 2), 1e-15));
}

TEST_CASE("checkpoint: inputs that need no gradient, and gradient checks") {
  const Tensor ids = from_vector<int64_t>({0, 2, 1, 2}, {4});
  gradcheck(
      [&](const Inputs& in) {
        return checkpoint([](const Inputs& inner) { return tanh(mul(embedding(inner[0], inner[1]), inner[2])); }, {in[0], ids, in[1]});
      },
      {normal({3, 5}, 1), normal({4, 5}, 2)});
}

TEST_CASE("checkpoint: a captured parameter that changed in place is an error") {
  Tensor w = parameter(normal({3, 3}, 2));
  const Tensor y = checkpoint([&](const Inputs& in) { return linear(in[0], w); }, {normal({2, 3})});
  w.copy_from(normal({3, 3}, 4));
  CHECK(has(error_of([&] { backward(sum(y)); }), "of checkpoint"));
}

}  // namespace
}  // namespace weft
