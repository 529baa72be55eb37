// The frame of the self-attention modules, through Vanilla and Multi-Head; LocalSelfAttention is in local_self_attention_test.cpp.
#include "weft/attention/self_attention.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "nn/module_check.h"
#include "weft/attention/mask.h"
#include "weft/attention/scaled_dot_product.h"
#include "weft/attention/vanilla.h"
#include "weft/autograd/ops.h"

using namespace weft;
using testing::check_module;
using testing::random;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

double largest_difference(const Tensor& a, const Tensor& b) { return a.shape() == b.shape() ? max(abs(a - b)).item() : inf; }

template <class M>
M evaluated(M module) {
  convert(module, DType::float64);
  set_training(module, false);
  return module;
}

MultiHeadSelfAttention multi_head(const SelfAttentionOptions& options) { return evaluated(MultiHeadSelfAttention(options)); }

Tensor bool_mask(const Shape& shape, double blocked) { return keep_mask(shape, blocked, default_generator().next()); }

// 0 where visible, -infinity where not.
Tensor as_bias(const Tensor& mask) { return masked_fill(zeros(mask.shape(), {.dtype = DType::float64}), logical_not(mask), -inf); }

// All gradients of sum(y * cotangent), with respect to x and every parameter.
template <class M>
std::vector<Tensor> gradients_of(M& module, const Tensor& x, const SelfAttentionCall& call, const Tensor& cotangent) {
  zero_grad(module);
  const Tensor leaf = parameter(clone(x));
  backward(module(leaf, call).y, cotangent);
  std::vector<Tensor> all = {grad(leaf)};
  for (const Tensor& p : parameters(module)) all.push_back(clone(grad(p)));
  return all;
}

}  // namespace

TEST_CASE("the small example of the specification") {
  const Tensor q = from_vector<double>({1, 0, 0, 2}, {2, 2}), k = from_vector<double>({1, 1, 0, 1}, {2, 2});
  const Tensor v = from_vector<double>({1, 2, 3, 4}, {2, 2});
  const auto check = [&](AttendOptions options, const std::vector<double>& w, const std::vector<double>& o) {
    options.return_weights = true;
    const Attended result = scaled_dot_product_attention(q, k, v, options);
    CHECK(largest_difference(result.weights, from_vector(w, {2, 2})) < 1e-7);
    CHECK(largest_difference(result.y, from_vector(o, {2, 2})) < 1e-7);
  };
  check({}, {0.6697615, 0.3302385, 0.5, 0.5}, {1.6604769, 2.6604769, 2, 3});
  check({.causal = true}, {1, 0, 0.5, 0.5}, {1, 2, 2, 3});
  const Tensor mask = from_vector<bool>({true, true, false, false}, {2, 2});
  check({.mask = mask}, {0.6697615, 0.3302385, 0, 0}, {1.6604769, 2.6604769, 0, 0});
  check({.bias = from_vector<double>({0, 1, -2, 0}, {2, 2})}, {0.4272957, 0.5727043, 0.1192029, 0.8807971},
        {2.1454086, 3.1454086, 2.7615942, 3.7615942});
  check({.scale = 1 / (std::sqrt(2.0) * 0.5)}, {0.8044297, 0.1955703, 0.5, 0.5}, {1.3911406, 2.3911406, 2, 3});
}

TEST_CASE("scaled_dot_product_attention: leading axes broadcast, any rank, gradients") {
  const auto attend = [](const std::vector<Tensor>& in) { return scaled_dot_product_attention(in[0], in[1], in[2], {.bias = in[3]}).y; };
  gradcheck(attend, {random({5, 3}), random({7, 3}), random({7, 2}), random({5, 7})});
  gradcheck(attend, {random({2, 1, 5, 3}), random({3, 7, 3}), random({1, 1, 7, 2}), random({3, 1, 7})});
  gradcheck(attend, {random({2, 3, 4, 3}), random({1, 1, 5, 3}), random({1, 1, 5, 3}), random({2, 1, 4, 1})});
  gradcheck(attend, {random({2, 1, 2, 3, 2}), random({2, 3, 1, 4, 2}), random({4, 2}), random({2, 1, 1, 3, 4})});
  const Tensor x = zeros({2, 3});
  CHECK_THROWS_WITH_AS(scaled_dot_product_attention(zeros({3}), x, x), doctest::Contains("expected q [.., N, D]"), Error);
  CHECK_THROWS_WITH_AS(scaled_dot_product_attention(x, x, x, {.bias = zeros({1, 2, 2})}), doctest::Contains("does not broadcast"), Error);
  CHECK_THROWS_WITH_AS(scaled_dot_product_attention(x, x, x, {.key_lengths = zeros({2}, {.dtype = DType::int64})}),
                       doctest::Contains("key_lengths needs a batch axis"), Error);
}

TEST_CASE("names, shapes and starting values") {
  manual_seed(1);
  MultiHeadSelfAttention module({.dim = 64, .input_dim = 32, .heads = 8, .bias = true});
  std::vector<std::string> names;
  for (const auto& entry : state_dict(module)) names.push_back(entry.first);
  CHECK(names ==
        std::vector<std::string>{"w_q.weight", "w_q.bias", "w_k.weight", "w_k.bias", "w_v.weight", "w_v.bias", "w_o.weight", "w_o.bias"});
  CHECK(module.w_q.weight.shape() == Shape({64, 32}));
  CHECK(module.w_o.weight.shape() == Shape({64, 64}));
  const double bound = std::sqrt(6.0 / 96);
  CHECK(max(abs(module.w_k.weight)).item() <= bound);
  CHECK(max(abs(module.w_k.weight)).item() > 0.98 * bound);
  CHECK(max(abs(module.w_k.bias)).item() == 0);
  CHECK(module.dropout.training);
  CHECK(module.options().input_dim == 32);
  CHECK(module.head_dim() == 8);
  CHECK(VanillaSelfAttention({.dim = 8}).head_dim() == 8);
  CHECK(VanillaSelfAttention({.dim = 8}).dropout.p == 0.1);
}

TEST_CASE("gradients of x, all parameters and the bias, with every option") {
  const auto run = [](const auto& module, const std::vector<Tensor>& in) { return module(in[0], {.bias = in[1]}).y; };
  check_module(VanillaSelfAttention({.dim = 6, .input_dim = 5, .dropout = 0, .bias = true, .rope = true, .temperature = 0.7}),
               {random({2, 7, 5}), random({2, 1, 7})}, run);
  check_module(MultiHeadSelfAttention({.dim = 6, .heads = 3, .dropout = 0, .bias = true, .rope = true, .temperature = -1.3}),
               {random({2, 5, 6}), random({1, 3, 5, 5})}, run);
  const Tensor mask = bool_mask({2, 1, 5}, 0.4), multiplier = to(bool_mask({2, 3, 5, 5}, 0.3), DType::float64) / 0.7;
  check_module(MultiHeadSelfAttention({.dim = 6, .heads = 3, .dropout = 0.3}), {random({2, 5, 6})},
               [&](const MultiHeadSelfAttention& module, const std::vector<Tensor>& in) {
                 const Attended result = module(in[0], {.mask = mask, .weights = Weights::dense, .dropout_multiplier = multiplier});
                 return concat({flatten(result.y), flatten(result.weights)}, 0);
               });
  check_module(MultiHeadSelfAttention({.dim = 4, .heads = 2, .dropout = 0}), {random({1, 7, 4})},
               [](const MultiHeadSelfAttention& module, const std::vector<Tensor>& in) {
                 return module(in[0], {.causal = true, .weights = Weights::head_mean}).weights;
               });
}

TEST_CASE("one head is Vanilla") {
  MultiHeadSelfAttention many = multi_head({.dim = 6, .heads = 1, .bias = true, .rope = true, .temperature = 0.8});
  VanillaSelfAttention one = evaluated(VanillaSelfAttention({.dim = 6, .bias = true, .rope = true, .temperature = 0.8}));
  load_state_dict(one, state_dict(many));
  const Tensor x = random({2, 7, 6}), mask = bool_mask({2, 7, 7}, 0.3), bias = random({7, 7});
  const Attended a = many(x, {.mask = mask, .bias = bias, .weights = Weights::dense});
  const Attended b = one(x, {.mask = mask, .bias = bias, .weights = Weights::dense});
  CHECK(largest_difference(a.y, b.y) == 0);
  CHECK(b.weights.shape() == Shape({2, 7, 7}));
  CHECK(largest_difference(reshape(a.weights, {2, 7, 7}), b.weights) == 0);
  CHECK(largest_difference(many.attention_weights(), one.attention_weights()) == 0);
}

TEST_CASE("a bool mask equals the bias of 0 and -infinity, structured masks equal their bool tensors: values and gradients") {
  MultiHeadSelfAttention module = multi_head({.dim = 8, .heads = 2, .bias = true, .rope = true});
  const Tensor x = random({3, 9, 8}), cotangent = random({3, 9, 8});
  const auto check_same = [&](const SelfAttentionCall& a, const SelfAttentionCall& b) {
    CHECK(largest_difference(module(x, a).y, module(x, b).y) < 1e-12);
    const std::vector<Tensor> da = gradients_of(module, x, a, cotangent), db = gradients_of(module, x, b, cotangent);
    for (size_t i = 0; i < da.size(); ++i) CHECK(largest_difference(da[i], db[i]) < 1e-12);
  };
  for (const Shape& shape : {Shape{9}, Shape{9, 9}, Shape{9, 1}, Shape{3, 1, 9}, Shape{1, 9, 9}, Shape{3, 2, 9, 9}, Shape{1, 2, 1, 9}}) {
    const Tensor mask = bool_mask(shape, 0.5);
    check_same({.mask = mask}, {.bias = as_bias(mask)});
  }
  check_same({.causal = true}, {.mask = causal_mask(9)});
  const Tensor lengths = from_vector<int64_t>({9, 0, 4}, {3});
  const Tensor padding = reshape(padding_mask(lengths, 9), {3, 1, 9});
  check_same({.key_lengths = lengths}, {.mask = padding});
  check_same({.causal = true, .key_lengths = lengths}, {.mask = logical_and(padding, causal_mask(9))});
}

TEST_CASE("queries without a visible key give the bias of the output, no NaN, and no gradient") {
  MultiHeadSelfAttention module = multi_head({.dim = 6, .heads = 2, .bias = true});
  module.w_o.bias.copy_from(random({6}));
  const Tensor x = random({2, 5, 6});
  std::vector<bool> visible(50, true);
  for (size_t pair = 10; pair < 15; ++pair) visible[pair] = false;  // row 2 of batch 0
  for (size_t pair = 25; pair < 50; ++pair) visible[pair] = false;  // all of batch 1
  const Tensor mask = from_vector(visible, {2, 5, 5});
  const Attended result = module(x, {.mask = mask, .weights = Weights::dense});
  const std::vector<double> y = result.y.to_vector<double>(), bias = module.w_o.bias.to_vector<double>();
  for (int64_t row : {2, 5, 6, 7, 8, 9}) {
    for (int64_t e = 0; e < 6; ++e) CHECK(y[static_cast<size_t>(row * 6 + e)] == bias[static_cast<size_t>(e)]);
  }
  CHECK(sum(slice(result.weights, 0, 1, 2)).item() == 0);
  const std::vector<Tensor> gradients = gradients_of(module, x, {.mask = mask}, random({2, 5, 6}));
  for (const Tensor& gradient : gradients) CHECK(std::isfinite(sum(gradient).item()));
  CHECK(max(abs(slice(gradients[0], 0, 1, 2))).item() == 0);
  // A row of large finite negatives is an ordinary softmax.
  const Tensor low = full({5, 5}, -1e9, {.dtype = DType::float64});
  CHECK(largest_difference(module(x, {.bias = low}).y, module(x).y) < 1e-5);
}

TEST_CASE("without rotary positions the bias of the keys has no gradient, with them it has") {
  for (bool rope : {false, true}) {
    MultiHeadSelfAttention module = multi_head({.dim = 6, .heads = 3, .bias = true, .rope = rope});
    const double size = max(abs(gradients_of(module, random({2, 7, 6}), {}, random({2, 7, 6}))[4])).item();  // w_k.bias
    CHECK((size > 1e-6) == rope);
  }
}

TEST_CASE("weights on request: dense, head mean, stored, the output does not depend on it") {
  MultiHeadSelfAttention module = multi_head({.dim = 6, .heads = 3});
  const Tensor x = random({2, 7, 6});
  CHECK_THROWS_WITH_AS(module.attention_weights(), doctest::Contains("the latest call computed no attention weights"), Error);
  const Attended none = module(x), dense = module(x, {.weights = Weights::dense});
  CHECK_FALSE(none.weights.defined());
  CHECK(dense.weights.shape() == Shape({2, 3, 7, 7}));
  CHECK(largest_difference(none.y, dense.y) < 1e-14);
  CHECK(largest_difference(sum(dense.weights, {-1}), ones({2, 3, 7}, {.dtype = DType::float64})) < 1e-12);
  CHECK(largest_difference(module.attention_weights(), mean(dense.weights, {1})) < 1e-15);
  CHECK_FALSE(requires_grad(module.attention_weights()));
  const Attended head_mean = module(x, {.weights = Weights::head_mean});
  CHECK(largest_difference(head_mean.weights, mean(dense.weights, {1})) < 1e-15);
  CHECK(requires_grad(head_mean.weights));
  module(x);
  CHECK_THROWS_AS(module.attention_weights(), Error);
  CHECK_THROWS_WITH_AS(module(x, {.weights = Weights::compact}), doctest::Contains("no compact layout of the weights"), Error);
}

TEST_CASE("temperature may be assigned after construction") {
  MultiHeadSelfAttention cold = multi_head({.dim = 8, .heads = 2});
  MultiHeadSelfAttention warm = cold;
  cold.temperature = 0.1;
  warm.temperature = 10;
  const Tensor x = random({2, 5, 8});
  const Tensor sharp = max(cold(x, {.weights = Weights::dense}).weights, {-1}),
               flat = max(warm(x, {.weights = Weights::dense}).weights, {-1});
  CHECK(min(sharp - flat).item() >= 0);
  cold.temperature = 0;
  CHECK_THROWS_WITH_AS(cold(x), doctest::Contains("temperature must be finite and not zero, got 0"), Error);
}

TEST_CASE("dropout: random in training, given multipliers replace it, none in evaluation") {
  MultiHeadSelfAttention module({.dim = 8, .heads = 2, .dropout = 0.5});
  const Tensor x = randn({2, 9, 8});
  manual_seed(9);
  const Attended first = module(x, {.weights = Weights::dense});
  manual_seed(9);
  CHECK(largest_difference(module(x).y, first.y) == 0);
  CHECK(largest_difference(module(x).y, first.y) > 1e-3);
  // The weights are those after dropout: about half are zero.
  const double zeros_share = mean(to(equal(first.weights, zeros_like(first.weights)), DType::float32)).item();
  CHECK(zeros_share == doctest::Approx(0.5).epsilon(0.2));
  const Tensor nothing = zeros({2, 2, 9, 9});
  CHECK(max(abs(module(x, {.dropout_multiplier = nothing}).y)).item() == 0);
  set_training(module, false);
  CHECK(largest_difference(module(x).y, module(x, {.dropout_multiplier = nothing}).y) == 0);
  MultiHeadSelfAttention all({.dim = 8, .heads = 2, .dropout = 1});
  CHECK(max(abs(all(x).y)).item() == 0);
}

TEST_CASE("each batch element by itself gives the same") {
  MultiHeadSelfAttention module = multi_head({.dim = 6, .heads = 3, .rope = true});
  const Tensor x = random({3, 5, 6});
  const Tensor whole = module(x).y;
  for (int64_t b = 0; b < 3; ++b) CHECK(largest_difference(module(slice(x, 0, b, b + 1)).y, slice(whole, 0, b, b + 1)) < 1e-13);
}

TEST_CASE("empty sequences and batches") {
  MultiHeadSelfAttention module({.dim = 6, .heads = 3, .rope = true});
  CHECK(module(zeros({2, 0, 6}), {.weights = Weights::dense}).weights.shape() == Shape({2, 3, 0, 0}));
  CHECK(module(zeros({2, 0, 6})).y.shape() == Shape({2, 0, 6}));
  CHECK(module(zeros({0, 5, 6})).y.shape() == Shape({0, 5, 6}));
  const Tensor x = parameter(zeros({2, 0, 6}));
  backward(module(x).y, zeros({2, 0, 6}));
  CHECK(max(abs(grad(module.w_q.weight))).item() == 0);
}

TEST_CASE("anomaly reports name the caller's place") {
  const MultiHeadSelfAttention module({.dim = 8, .heads = 2});
  const Tensor nan = full({1, 3, 8}, NAN);
  const AnomalyMode anomaly;
  CHECK_THROWS_WITH_AS(module(nan), doctest::Contains("self_attention_test.cpp"), Error);
  CHECK_THROWS_WITH_AS(scaled_dot_product_attention(nan, nan, nan), doctest::Contains("self_attention_test.cpp"), Error);
}

TEST_CASE("errors") {
  CHECK_THROWS_WITH_AS(SelfAttention()(zeros({1, 2, 3})), doctest::Contains("SelfAttention: empty; build it with"), Error);
  const auto build = [](const SelfAttentionOptions& options) { return MultiHeadSelfAttention(options); };
  CHECK_THROWS_WITH_AS(build({.dim = 31, .heads = 4}), doctest::Contains("d_model (31) must be divisible by num_heads (4)"), Error);
  CHECK_THROWS_WITH_AS(build({.dim = 32}), doctest::Contains("heads must be given"), Error);
  CHECK_THROWS_WITH_AS(build({.dim = 0, .heads = 1}), doctest::Contains("dim, input_dim and the head counts must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(build({.dim = 8, .heads = -2}), doctest::Contains("must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(build({.dim = 8, .heads = 2, .dropout = 1.5}), doctest::Contains("p must be in [0, 1]"), Error);
  CHECK_THROWS_WITH_AS(build({.dim = 8, .heads = 2, .temperature = 0}), doctest::Contains("temperature must be finite and not zero"),
                       Error);
  CHECK_THROWS_WITH_AS(build({.dim = 6, .heads = 2, .rope = true}), doctest::Contains("the width of a head is odd, 3"), Error);
  CHECK_THROWS_WITH_AS(VanillaSelfAttention({.dim = 8, .heads = 2}), doctest::Contains("there is one head, got heads = 2"), Error);

  const MultiHeadSelfAttention module({.dim = 8, .heads = 2});
  const Tensor x = zeros({2, 3, 8});
  CHECK_THROWS_WITH_AS(module(zeros({3, 8})), doctest::Contains("expected x of [B, N, 8], got float32 [3, 8]"), Error);
  CHECK_THROWS_WITH_AS(module(zeros({2, 3, 7})), doctest::Contains("expected x of [B, N, 8]"), Error);
  CHECK_THROWS_WITH_AS(module(x, {.mask = zeros({3, 3})}), doctest::Contains("mask must be bool"), Error);
  CHECK_THROWS_WITH_AS(module(x, {.mask = ones({4, 2, 3, 3}, {.dtype = DType::boolean})}), doctest::Contains("does not broadcast"), Error);
  CHECK_THROWS_WITH_AS(module(x, {.mask = ones({}, {.dtype = DType::boolean})}), doctest::Contains("the mask must have rank 1 to 4"),
                       Error);
  CHECK_THROWS_WITH_AS(module(x, {.bias = zeros({1, 1, 1, 3, 3})}), doctest::Contains("the bias must have rank 1 to 4"), Error);
  CHECK_THROWS_WITH_AS(VanillaSelfAttention({.dim = 8})(x, {.bias = zeros({1, 1, 3, 3})}),
                       doctest::Contains("the bias must have rank 1 to 3"), Error);
}
