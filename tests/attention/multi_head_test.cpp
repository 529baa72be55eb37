#include "weft/attention/multi_head.h"

#include <doctest/doctest.h>

#include <cmath>

#include "nn/module_check.h"
#include "weft/attention/dot_product.h"
#include "weft/attention/heads.h"
#include "weft/attention/mask.h"
#include "weft/autograd/ops.h"
#include "weft/nn/rotary.h"

using namespace weft;
using testing::check_module;
using testing::error_of;
using testing::has;
using testing::random;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return a.shape() == b.shape() ? max(abs(a - b)).item() : INFINITY; }

std::vector<std::string> names_of(MultiHeadAttention& module) {
  std::vector<std::string> names;
  for (const auto& entry : state_dict(module)) names.push_back(entry.first);
  return names;
}

// The same attention from plain ops: scores, masked softmax, heads shared by repetition.
Tensor reference(const MultiHeadAttention& m, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& mask,
                 const Tensor& bias) {
  const auto heads_first = [&](const Tensor& x, int64_t heads) {
    const Tensor split = split_heads(x, heads);
    std::vector<Tensor> shared;
    for (int64_t h = 0; h < m.heads; ++h) {
      const int64_t source = h * heads / m.heads;
      shared.push_back(slice(split, 1, source, source + 1));
    }
    return concat(shared, 1);
  };
  Tensor q = heads_first(q_in, m.heads), k = heads_first(k_in, m.kv_heads);
  const Tensor v = heads_first(v_in, m.kv_heads);
  if (m.rope) {
    q = rotary(q, {.axis = 2});
    k = rotary(k, {.axis = 2});
  }
  Tensor scores = matmul(q, k, {.transpose_b = true, .alpha = 1 / std::sqrt(static_cast<double>(m.head_dim))});
  if (bias.defined()) scores = scores + bias;
  Tensor visible = ones({q.size(2), k.size(2)}, {.dtype = DType::boolean});
  if (m.causal) visible = causal_mask(q.size(2), k.size(2));
  if (mask.defined()) visible = logical_and(visible, mask);
  return m.to_out(merge_heads(matmul(softmax(scores, -1, visible), v)));
}

}  // namespace

TEST_CASE("MultiHeadAttention: equals its composition, with grouped heads, rotary positions, mask and bias") {
  manual_seed(1);
  for (bool packed : {false, true}) {
    for (int64_t kv_heads : {6, 2, 1}) {
      for (bool rope : {false, true}) {
        CAPTURE(packed);
        CAPTURE(kv_heads);
        CAPTURE(rope);
        MultiHeadAttention m({.dim = 10,
                              .heads = 6,
                              .kv_heads = kv_heads,
                              .head_dim = 4,
                              .packed = packed,
                              .bias = true,
                              .out_bias = true,
                              .causal = rope,
                              .rope = rope});
        convert(m, DType::float64);
        const Tensor x = random({2, 7, 10});
        const Tensor mask = logical_not(equal(randint(4, {2, 1, 7, 7}), zeros({}, {.dtype = DType::int64})));
        const Tensor bias = random({6, 7, 7});
        Tensor q, k, v;
        if (packed) {
          const std::vector<Tensor> parts = split(m.to_qkv(x), {24, 4 * kv_heads, 4 * kv_heads}, -1);
          q = parts[0], k = parts[1], v = parts[2];
        } else {
          q = m.to_q(x), k = m.to_k(x), v = m.to_v(x);
        }
        CHECK(largest_difference(m(x, {.mask = mask, .bias = bias}), reference(m, q, k, v, mask, bias)) < 1e-12);
      }
    }
  }
}

TEST_CASE("MultiHeadAttention: cross attention to a context of another width and length") {
  MultiHeadAttention m({.dim = 8, .heads = 2, .context_dim = 5, .causal = true});
  convert(m, DType::float64);
  const Tensor x = random({2, 3, 8}), context = random({2, 7, 5});
  CHECK(largest_difference(m(x, {.context = context}), reference(m, m.to_q(x), m.to_k(context), m.to_v(context), {}, {})) < 1e-12);
}

TEST_CASE("MultiHeadAttention: gradients") {
  const auto self = [](const MultiHeadAttention& m, const std::vector<Tensor>& in) { return m(in[0], {.bias = in[1]}); };
  check_module(MultiHeadAttention({.dim = 6, .heads = 3, .packed = true, .bias = true, .out_bias = true, .causal = true, .rope = true}),
               {random({2, 5, 6}), random({3, 1, 5})}, self);
  check_module(MultiHeadAttention({.dim = 5, .heads = 4, .kv_heads = 2, .head_dim = 3}), {random({1, 7, 5}), random({1, 1, 7, 7})}, self);
  check_module(MultiHeadAttention({.dim = 4, .heads = 2, .context_dim = 3}), {random({2, 3, 4}), random({2, 5, 3})},
               [](const MultiHeadAttention& m, const std::vector<Tensor>& in) { return m(in[0], {.context = in[1]}); });
}

TEST_CASE("MultiHeadAttention: names") {
  MultiHeadAttention apart({.dim = 8, .heads = 2, .bias = true});
  CHECK(names_of(apart) ==
        std::vector<std::string>{"to_q.weight", "to_q.bias", "to_k.weight", "to_k.bias", "to_v.weight", "to_v.bias", "to_out.weight"});
  MultiHeadAttention packed({.dim = 8, .heads = 4, .kv_heads = 2, .packed = true, .out_bias = true});
  CHECK(names_of(packed) == std::vector<std::string>{"to_qkv.weight", "to_out.weight", "to_out.bias"});
  CHECK(packed.to_qkv.weight.shape() == Shape({16, 8}));
}

TEST_CASE("MultiHeadAttention: generation with a cache equals the whole sequence") {
  NoGrad no_grad;
  for (int64_t batch : {1, 3}) {
    for (bool rope : {false, true}) {
      CAPTURE(batch);
      CAPTURE(rope);
      MultiHeadAttention m({.dim = 8, .heads = 4, .kv_heads = 2, .packed = true, .causal = true, .rope = rope});
      convert(m, DType::float64);
      const Tensor x = random({batch, 150, 8});
      const Tensor whole = m(x);
      KeyValueCache cache;
      for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, 5}, {5, 6}, {6, 60}, {60, 61}, {61, 149}, {149, 150}}) {
        CHECK(cache.length() == begin);
        CHECK(largest_difference(m(slice(x, 1, begin, end), {.cache = &cache}), slice(whole, 1, begin, end)) < 1e-12);
      }
    }
  }
}

TEST_CASE("MultiHeadAttention: with a cache, masks and biases cover all keys, row by row") {
  NoGrad no_grad;
  MultiHeadAttention m({.dim = 8, .heads = 2, .causal = true});
  convert(m, DType::float64);
  const Tensor x = random({2, 6, 8});
  const Tensor visible = from_vector<bool>({true, true, true, true, true, true, false, false, true, true, true, true}, {2, 1, 1, 6});
  const Tensor bias = random({2, 2, 6, 6});
  const Attended whole = m.attend(x, {.mask = visible, .bias = bias, .return_weights = true});
  KeyValueCache cache(2);
  m(slice(x, 1, 0, 4), {.mask = slice(visible, 3, 0, 4), .bias = slice(slice(bias, 2, 0, 4), 3, 0, 4), .cache = &cache});
  const Attended rest =
      m.attend(slice(x, 1, 4, 6), {.mask = visible, .bias = slice(bias, 2, 4, 6), .cache = &cache, .return_weights = true});
  CHECK(largest_difference(rest.y, slice(whole.y, 1, 4, 6)) < 1e-12);
  CHECK(largest_difference(rest.weights, slice(whole.weights, 2, 4, 6)) < 1e-12);
}

TEST_CASE("MultiHeadAttention: dropout acts in training only and repeats from the seed") {
  MultiHeadAttention m({.dim = 8, .heads = 2, .dropout = 0.5});
  const Tensor x = randn({2, 9, 8});
  manual_seed(4);
  const Tensor first = m(x);
  manual_seed(4);
  CHECK(largest_difference(m(x), first) == 0);
  CHECK(largest_difference(m(x), first) > 1e-3);
  set_training(m, false);
  CHECK(largest_difference(m(x), m(x)) == 0);
}

namespace {

// A mechanism that is a module: q passes a layer and dropout, the scores a buffer's factor.
struct Tuned {
  Linear layer{{.in = 4, .out = 4}};
  Dropout dropout{{.p = 0.5}};
  Buffer factor{full({}, 2)};
  Attended operator()(const Tensor& q, const Tensor& k, const Tensor& v, AttendOptions options, Location at) const {
    options.scale = factor.value.item();
    return dot_product(dropout(layer(q, at), at), k, v, options, at);
  }
  void visit(auto&& f) {
    f("layer", layer);
    f("dropout", dropout);
    f("factor", factor);
  }
};

}  // namespace

TEST_CASE("MultiHeadAttention: a mechanism that is a module is trained, saved, moved and switched with the rest") {
  MultiHeadAttention m({.dim = 8, .heads = 2});
  m.mechanism = Mechanism("tuned", std::make_shared<ModuleBody<Tuned>>(Tuned()));
  CHECK(names_of(m) == std::vector<std::string>{"to_q.weight", "to_k.weight", "to_v.weight", "mechanism.layer.weight",
                                                "mechanism.layer.bias", "mechanism.factor", "to_out.weight"});
  CHECK(parameters(m).size() == 6);
  for (const NamedTensor& entry : detail::collect(m)) CHECK(entry.buffer == (entry.name == "mechanism.factor"));
  convert(m, DType::float64);
  for (const auto& [name, tensor] : state_dict(m)) CHECK(tensor.dtype() == DType::float64);
  const Tensor x = random({2, 5, 8});
  CHECK(largest_difference(m(x), m(x)) > 1e-3);
  set_training(m, false);
  CHECK(largest_difference(m(x), m(x)) == 0);
  const auto layer = [&] { return state_dict(m.mechanism)[0].second; };
  const Tensor before = m(x);
  layer().copy_from(random({4, 4}));
  CHECK(largest_difference(m(x), before) > 1e-3);
  backward(sum(square(m(x))));
  for (const Tensor& p : parameters(m)) CHECK(grad(p).defined());
}

TEST_CASE("Mechanism: an empty one has no tensors, and says how to build one when it is called") {
  MultiHeadAttention m;
  CHECK(parameters(m).empty());
  set_training(m, false);
  const Tensor x = zeros({1, 2, 1, 4});
  CHECK_THROWS_WITH_AS(m.mechanism(x, x, x), doctest::Contains("Mechanism: empty; build it with make_mechanism(\"dot_product\""), Error);
}

TEST_CASE("make_mechanism: settings that fit no attention are errors") {
  const auto error_with = [](const MechanismSettings& settings) { return error_of([&] { make_mechanism("local:window=4", settings); }); };
  CHECK(error_with({.heads = 4, .kv_heads = 2, .head_dim = 8}).empty());
  for (const MechanismSettings& wrong : {MechanismSettings{.heads = 0}, {.head_dim = 0}, {.kv_heads = -1}, {.max_len = -1}}) {
    CHECK(has(error_with(wrong), "attention local:window=4: heads and head_dim must be at least 1"));
  }
  CHECK(has(error_with({.heads = 4, .kv_heads = 3}), "heads (4) must be divisible by kv_heads (3)"));
}

TEST_CASE("MultiHeadAttention: anomaly reports name the caller's place") {
  const MultiHeadAttention m({.dim = 8, .heads = 2});
  const AnomalyMode anomaly;
  CHECK_THROWS_WITH_AS(m(full({1, 3, 8}, NAN)), doctest::Contains("multi_head_test.cpp"), Error);
}

TEST_CASE("MultiHeadAttention: empty batches and sequences") {
  MultiHeadAttention m({.dim = 8, .heads = 2, .packed = true, .causal = true, .rope = true});
  CHECK(m(zeros({2, 0, 8})).shape() == Shape({2, 0, 8}));
  CHECK(m(zeros({0, 5, 8})).shape() == Shape({0, 5, 8}));
}

TEST_CASE("MultiHeadAttention: errors") {
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 10, .heads = 4}), doctest::Contains("dim (10) must be divisible by heads (4)"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 12, .heads = 4, .kv_heads = 3}),
                       doctest::Contains("heads (4) must be divisible by kv_heads (3)"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 0}), doctest::Contains("must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 6, .heads = 2, .rope = true}), doctest::Contains("rope needs an even head_dim, got 3"),
                       Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 2, .head_dim = -4}), doctest::Contains("head_dim and max_len must not be"),
                       Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 2, .rope = true, .rope_base = 0}),
                       doctest::Contains("rope_base must be positive and finite, got 0"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 2, .context_dim = 3, .packed = true}),
                       doctest::Contains("packed projections"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 2, .attention = "dot_prodct"}), doctest::Contains("dot_product"), Error);
  const Tensor x = zeros({2, 3, 8});
  MultiHeadAttention packed({.dim = 8, .heads = 2, .packed = true}), turned({.dim = 8, .heads = 2, .rope = true}),
      plain({.dim = 8, .heads = 2});
  CHECK_THROWS_WITH_AS(plain(zeros({3, 8})), doctest::Contains("MultiHeadAttention: expected x of [B, N, 8], got float32 [3, 8]"), Error);
  CHECK_THROWS_WITH_AS(plain(zeros({2, 3, 7})), doctest::Contains("MultiHeadAttention: expected x of [B, N, 8]"), Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention()(x), doctest::Contains("MultiHeadAttention: it has no weights"), Error);
  CHECK_THROWS_WITH_AS(plain(x, {.context = zeros({3, 3, 8})}), doctest::Contains("expected a context of [2, M, 8]"), Error);
  CHECK_THROWS_WITH_AS(plain(x, {.context = zeros({2, 5, 7})}),
                       "MultiHeadAttention: expected a context of [2, M, 8], got float32 [2, 5, 7]", Error);
  CHECK_THROWS_WITH_AS(MultiHeadAttention({.dim = 8, .heads = 2, .context_dim = 6})(x),
                       doctest::Contains("expected a context of [2, M, 6], got float32 [2, 3, 8], x itself: give a context"), Error);
  CHECK_THROWS_WITH_AS(packed(x, {.context = x}), doctest::Contains("packed projections take no context"), Error);
  CHECK_THROWS_WITH_AS(turned(x, {.context = x}), doctest::Contains("rotary positions do not relate x to a context"), Error);
  KeyValueCache cache;
  CHECK_THROWS_WITH_AS(plain(x, {.context = x, .cache = &cache}), doctest::Contains("a cache continues x itself"), Error);
  CHECK_THROWS_WITH_AS(plain(x, {.cache = &cache}), doctest::Contains("generation must run under NoGrad"), Error);
  NoGrad no_grad;
  plain(x, {.cache = &cache});
  CHECK_THROWS_WITH_AS(plain(zeros({1, 3, 8}), {.cache = &cache}), doctest::Contains("the cache holds"), Error);
  CHECK_THROWS_WITH_AS(cache.append(zeros({2, 3, 4}), zeros({2, 3, 4})), doctest::Contains("expected k and v of [B, N, H, D]"), Error);
}
