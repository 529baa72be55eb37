// The attention kernels on CUDA against the CPU's: values, weights and gradients in every dtype.
#include "weft/attention/dot_product.h"

#include "core/cuda/on_cuda.h"
#include "weft/attention/kernels.h"
#include "weft/autograd/ops.h"

using namespace weft;
using namespace weft::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
const TensorOptions wide = {.dtype = DType::float64, .device = Device::cpu()};

/// Sizes, scope with the tensors that it wants on the CPU (floating-point ones in float64), whether weights are computed and have a
/// gradient, and whether there is a backward at all.
struct Problem {
  int64_t B = 1, H = 2, Hkv = 1, N = 7, M = 9, D = 5, Dv = 5;
  AttentionScope scope = {};
  bool weights = false;
  bool backward = true;
};

enum Input { q, k, v, dout, some_o, mask, bias, multiplier, lengths, dweights, inputs };

/// Every kernel of the family, one after the other as the op calls them. But delta is that of another o: it should not carry the rounding
/// of o to a half type into the gradients, nor cancel them where there is one key.
std::vector<Tensor> run(const Problem& p, const std::vector<Tensor>& in) {
  AttentionScope scope = p.scope;
  scope.mask = in[mask], scope.bias = in[bias], scope.dropout_multiplier = in[multiplier], scope.key_lengths = in[lengths];
  const DType statistics = in[q].dtype() == DType::float64 ? DType::float64 : DType::float32;
  Tensor o = empty_like(in[dout]), lse = empty({p.B, p.H, p.N}, {.dtype = statistics, .device = in[q].device()}), weights, dbias;
  WEFT_LAUNCH(o, dot_product(o, lse, in[q], in[k], in[v], scope));
  if (p.weights) {
    weights = empty_like(in[dweights]);
    WEFT_LAUNCH(o, dot_product_weights(weights, in[q], in[k], lse, scope));
  }
  if (!p.backward) return {o, lse};
  Tensor delta = empty_like(lse), dq = empty_like(in[q]), dk = empty_like(in[k]), dv = empty_like(in[v]);
  if (in[bias].defined()) dbias = empty_like(in[bias]);
  WEFT_LAUNCH(o, dot_product_delta(delta, in[dout], in[some_o], in[dweights], in[q], in[k], lse, scope));
  WEFT_LAUNCH(o, dot_product_backward(dq, dk, dv, dbias, in[dout], in[dweights], in[q], in[k], in[v], lse, delta, scope));
  std::vector<Tensor> outputs{o, lse, delta, dq, dk, dv};
  if (p.weights) outputs.push_back(weights);
  if (dbias.defined()) outputs.push_back(dbias);
  return outputs;
}

Shape rows(const Problem& p, int64_t heads, int64_t length, int64_t width) {
  return p.scope.layout == AttentionLayout::bhnd ? Shape{p.B, heads, length, width} : Shape{p.B, length, heads, width};
}

std::vector<Tensor> make_inputs(const Problem& p) {
  std::vector<Tensor> in(inputs);
  in[q] = normal(rows(p, p.H, p.N, p.D), 1), in[k] = normal(rows(p, p.Hkv, p.M, p.D), 2), in[v] = normal(rows(p, p.Hkv, p.M, p.Dv), 3);
  in[dout] = normal(rows(p, p.H, p.N, p.Dv), 4), in[some_o] = normal(rows(p, p.H, p.N, p.Dv), 6);
  in[mask] = p.scope.mask, in[bias] = p.scope.bias, in[multiplier] = p.scope.dropout_multiplier, in[lengths] = p.scope.key_lengths;
  if (p.weights) in[dweights] = normal({p.B, p.H, p.N, p.scope.compact ? p.scope.left + 1 + p.scope.right : p.M}, 5);
  return in;
}

void check_problem(const Problem& p, const std::vector<DType>& dtypes = compute_dtypes) {
  CAPTURE(p.N);
  CAPTURE(p.M);
  CAPTURE(p.D);
  CAPTURE(p.Dv);
  const std::vector<Tensor> in = make_inputs(p);
  for (DType dtype : dtypes) {
    // Nothing is more exact than float64 to compare it with: scores of a few units are off by a few units in the last place. Tensor cores
    // multiply weights and their gradients that are rounded to half types.
    check_on_cuda(
        in, [&](const std::vector<Tensor>& own) { return run(p, own); }, {dtype},
        dtype == DType::float64   ? 64
        : dtype == DType::float32 ? 4
                                  : 8);
  }
}

Tensor random_mask(const Shape& shape, double visible, uint64_t seed) {
  return keep_mask(shape, 1 - visible, {.seed = seed}, Device::cpu());
}

}  // namespace

TEST_CASE("cuda: dot_product, a grid of sizes") {
  const int64_t lengths[] = {1, 2, 7, 33, 65, 129}, dims[] = {1, 5, 16, 64, 80};
  int64_t turn = 0;
  for (int64_t n : lengths) {
    for (int64_t m : lengths) {
      ++turn;
      Problem p{.H = 1 + turn % 2, .N = n, .M = m, .D = dims[turn % 5], .Dv = dims[(turn + 2 + turn / 5) % 5]};
      p.scope.scale = 0.4;
      if (turn % 3 == 0) p.scope.right = 0;
      check_problem(p, {turn % 2 == 0 ? DType::float64 : DType::float32, turn % 4 == 0 ? DType::float16 : DType::bfloat16});
    }
  }
}

TEST_CASE("cuda: dot_product, each option alone") {
  Problem p{.B = 2, .H = 2, .Hkv = 1, .N = 34, .M = 70, .D = 8, .Dv = 12};
  p.scope.scale = 0.5;
  SUBCASE("nothing") {}
  SUBCASE("heads first") { p.scope.layout = AttentionLayout::bhnd; }
  SUBCASE("weights") { p.weights = true; }
  SUBCASE("causal") { p.scope.right = 0, p.weights = true; }
  SUBCASE("more queries than keys") { p.N = 70, p.M = 34, p.scope.right = 0; }  // rows that see nothing
  SUBCASE("mask of every pair") { p.scope.mask = random_mask({2, 2, 34, 70}, 0.5, 1), p.weights = true; }
  SUBCASE("mask of keys") { p.scope.mask = random_mask({2, 1, 1, 70}, 0.5, 2); }
  SUBCASE("mask of queries") { p.scope.mask = random_mask({34, 1}, 0.5, 3); }
  SUBCASE("bias") { p.scope.bias = normal({2, 2, 34, 70}, 6), p.weights = true; }
  SUBCASE("padding") { p.scope.key_lengths = from_vector<int64_t>({37, 0}, {2}, Device::cpu()), p.weights = true; }
  SUBCASE("dropout") { p.scope.dropout = 0.3, p.scope.key = {.seed = 3, .offset = 7}, p.weights = true; }
  SUBCASE("dropout, whole blocks of the stream") { p.M = 72, p.scope.dropout = 0.3, p.scope.key = {.seed = 4}; }
  SUBCASE("everything dropped") { p.scope.dropout = 1, p.scope.key = {.seed = 5}, p.weights = true; }
  SUBCASE("multipliers") { p.scope.dropout_multiplier = normal({2, 34, 70}, 7), p.weights = true; }
  check_problem(p);
}

TEST_CASE("cuda: dot_product, few queries and several ranges of keys") {
  Problem p{.B = 2, .H = 2, .Hkv = 1, .N = 3, .M = 521, .D = 24, .Dv = 40};
  p.scope.scale = 0.3;
  SUBCASE("nothing") {}
  SUBCASE("odd widths") { p.D = 3, p.Dv = 5; }
  SUBCASE("wide") { p.B = 1, p.M = 300, p.D = 260, p.Dv = 261, p.scope.scale = 0.1; }
  SUBCASE("a window") { p.scope.left = 280, p.scope.right = -5; }
  SUBCASE("every option") {
    p.scope.right = 0, p.scope.dropout = 0.2, p.scope.key = {.seed = 5}, p.scope.layout = AttentionLayout::bhnd;
    p.scope.mask = random_mask({2, 1, 3, 521}, 0.7, 3), p.scope.bias = normal({1, 521}, 4);
    p.scope.key_lengths = from_vector<int64_t>({0, 401}, {2}, Device::cpu());
  }
  p.backward = false;
  check_problem(p);
}

TEST_CASE("cuda: dot_product, windows") {
  Problem p{.N = 100, .M = 100, .D = 8, .Dv = 4, .weights = true};
  SUBCASE("both sides") { p.scope.left = 5, p.scope.right = 9; }
  SUBCASE("itself only") { p.scope.left = 0, p.scope.right = 0; }
  SUBCASE("behind") { p.scope.left = 20, p.scope.right = -3; }
  SUBCASE("ahead") { p.scope.left = -3, p.scope.right = 70; }
  SUBCASE("more keys") { p.N = 40, p.M = 110, p.scope.left = 6, p.scope.right = 2; }
  SUBCASE("more queries") { p.N = 110, p.M = 40, p.scope.left = 6, p.scope.right = 2; }
  SUBCASE("compact") { p.scope.left = 5, p.scope.right = 9, p.scope.compact = true; }
  SUBCASE("compact, more keys") { p.N = 40, p.M = 110, p.scope.left = 6, p.scope.right = 0, p.scope.compact = true; }
  SUBCASE("compact, more queries") { p.N = 110, p.M = 40, p.scope.left = 70, p.scope.right = 2, p.scope.compact = true; }
  SUBCASE("compact, wider than everything") { p.N = 20, p.M = 30, p.scope.left = 40, p.scope.right = 50, p.scope.compact = true; }
  SUBCASE("compact, with dropout, mask and padding") {
    p.scope.left = 5, p.scope.right = 9, p.scope.compact = true;
    p.scope.dropout = 0.4, p.scope.key = {.seed = 8};
    p.scope.mask = random_mask({100, 100}, 0.7, 4), p.scope.key_lengths = from_vector<int64_t>({83}, {1}, Device::cpu());
  }
  check_problem(p, {DType::float64, DType::float32});
}

TEST_CASE("cuda: dot_product, every option at once") {
  for (const bool heads_first : {false, true}) {
    Problem p{.B = 2, .H = 4, .Hkv = 2, .N = 70, .M = 90, .D = 24, .Dv = 40, .weights = true};
    p.scope = {.scale = 0.3,
               .left = 60,
               .right = 3,
               .mask = random_mask({2, 1, 70, 90}, 0.7, 3),
               .bias = normal({4, 70, 90}, 4),
               .key_lengths = from_vector<int64_t>({61, 90}, {2}, Device::cpu()),
               .dropout = 0.2,
               .key = {.seed = 9, .offset = (uint64_t{1} << 40) + 1},
               .dropout_multiplier = {},
               .layout = heads_first ? AttentionLayout::bhnd : AttentionLayout::bnhd,
               .compact = heads_first};
    check_problem(p, heads_first ? std::vector{DType::float64, DType::bfloat16} : std::vector{DType::float32, DType::float16});
  }
}

TEST_CASE("cuda: dot_product, bias of every broadcast shape") {
  for (const Shape& shape : {Shape{2, 2, 70, 40}, Shape{1, 2, 70, 40}, Shape{2, 1, 70, 40}, Shape{70, 40}, Shape{1, 1, 1, 40}, Shape{40},
                             Shape{2, 2, 1, 40}, Shape{2, 2, 70, 1}, Shape{70, 1}, Shape{1}, Shape{}}) {
    Problem p{.B = 2, .N = 70, .M = 40, .D = 4, .Dv = 4};
    p.scope.bias = normal(shape, 8), p.scope.right = 8;
    check_problem(p, {DType::float64, DType::float32});
  }
}

TEST_CASE("cuda: dot_product, queries without a visible key") {
  Problem p{.B = 2, .N = 66, .M = 65, .D = 4, .Dv = 4, .weights = true};
  SUBCASE("by a mask") { p.scope.mask = zeros({1, 65}, {.dtype = DType::boolean, .device = Device::cpu()}); }
  SUBCASE("by a bias of -infinity") { p.scope.bias = full({66, 65}, -infinity, wide); }
  SUBCASE("by padding") { p.scope.key_lengths = from_vector<int64_t>({0, 0}, {2}, Device::cpu()); }
  check_problem(p);
  const std::vector<Tensor> out = moved(run(p, moved(make_inputs(p), Device::cuda())), Device::cpu());
  for (double x : out[1].to_vector<double>()) CHECK(x == infinity);
  for (size_t i = 0; i < out.size(); ++i) {
    if (i != 1 && i != 2) CHECK(largest_finite(out[i]) == 0);
  }
}

TEST_CASE("cuda: dot_product, wide heads") {
  check_problem({.H = 1, .N = 9, .M = 70, .D = 256, .Dv = 256}, {DType::float32, DType::float64});
  check_problem({.H = 1, .N = 9, .M = 33, .D = 128, .Dv = 96}, {DType::float16, DType::float64});
  check_problem({.H = 1, .N = 9, .M = 13, .D = 300, .Dv = 2}, {DType::bfloat16, DType::float32});
  check_problem({.H = 1, .N = 9, .M = 13, .D = 3, .Dv = 301}, {DType::bfloat16, DType::float64});
}

TEST_CASE("cuda: dot_product reads nothing of keys beyond the lengths, and passes on NaN") {
  Problem p{.B = 1, .N = 33, .M = 70, .D = 4, .Dv = 4};
  p.scope.key_lengths = from_vector<int64_t>({50}, {1}, Device::cpu());
  std::vector<Tensor> in = make_inputs(p);
  for (Input x : {k, v}) std::fill_n(in[x].data<double>() + 50 * 4, 20 * 4, std::numeric_limits<double>::quiet_NaN());
  const auto call = [&](const std::vector<Tensor>& own) { return run(p, own); };
  check_on_cuda(in, call, {DType::float64}, 64);
  CHECK(largest_finite(call(moved(in, Device::cuda()))[0]) > 0);
  in[q].data<double>()[5 * 2 * 4] = std::numeric_limits<double>::quiet_NaN();  // row 5 of the first head
  p.backward = false;
  check_on_cuda(in, call, {DType::float64}, 64);
}

TEST_CASE("cuda: dot_product, tensors that do not begin at 16 bytes, or have no elements") {
  const Problem p{.B = 1, .H = 1, .N = 20, .M = 20, .D = 16, .Dv = 16};
  std::vector<Tensor> in = make_inputs(p);
  for (Input x : {q, k, v, dout, some_o}) in[x] = normal({1 + 20 * 16}, 10 + x);
  check_on_cuda(in,
                [&](std::vector<Tensor> own) {
                  for (Input x : {q, k, v, dout, some_o}) own[x] = own[x].rows(1, 1 + 20 * 16).viewed_as({1, 20, 1, 16});
                  return run(p, own);
                },
                {DType::float32, DType::bfloat16});
  for (const Problem& empty : {Problem{.B = 0}, Problem{.N = 0}, Problem{.M = 0}, Problem{.Dv = 0}}) check_problem(empty);
}

TEST_CASE("cuda: dot_product has the same bits in every run") {
  Problem p{.B = 1, .N = 70, .M = 130, .D = 8, .Dv = 8};
  p.scope.bias = normal({130}, 3);
  const std::vector<Tensor> in = moved(converted(make_inputs(p), DType::float32), Device::cuda());
  const std::vector<Tensor> once = moved(run(p, in), Device::cpu()), again = moved(run(p, in), Device::cpu());
  for (size_t i = 0; i < once.size(); ++i) CHECK(once[i].to_vector<float>() == again[i].to_vector<float>());
}
