// Attention on tensor cores against the CPU's: sizes around the limits of tiles, and every option.
#include "weft/attention/cuda/dot_product_mma.h"

#include <limits>

#include "core/cuda/on_cuda.h"
#ifdef WEFT_CUDA_EMULATED
#include "weft/core/cuda/emulated/mma.h"
#endif

using namespace weft;
using namespace weft::testing;

namespace {

const std::vector<DType> half_types = {DType::float16, DType::bfloat16};
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Case {
  int64_t B = 1, H = 1, Hkv = 1, N = 1, M = 1, D = 64, Dv = 64;
  AttentionScope scope = {};
  Tensor dweights = {};
};

Shape rows_shape(const Case& c, int64_t heads, int64_t rows, int64_t width) {
  return c.scope.layout == AttentionLayout::bhnd ? Shape{c.B, heads, rows, width} : Shape{c.B, rows, heads, width};
}

Tensor random_mask(const Shape& shape, double density, uint64_t seed) { return keep_mask(shape, 1 - density, {.seed = seed}); }

/// q, k, v, dout, mask, bias, key_lengths, dropout_multiplier, dweights.
std::vector<Tensor> inputs_of(const Case& c) {
  return {normal(rows_shape(c, c.H, c.N, c.D), 1),
          normal(rows_shape(c, c.Hkv, c.M, c.D), 2),
          normal(rows_shape(c, c.Hkv, c.M, c.Dv), 3),
          normal(rows_shape(c, c.H, c.N, c.Dv), 4),
          c.scope.mask,
          c.scope.bias,
          c.scope.key_lengths,
          c.scope.dropout_multiplier,
          c.dweights};
}

AttentionScope scope_of(const Case& c, const std::vector<Tensor>& in) {
  AttentionScope scope = c.scope;
  scope.mask = in[4], scope.bias = in[5], scope.key_lengths = in[6], scope.dropout_multiplier = in[7];
  return scope;
}

TensorOptions statistics_of(const Tensor& q) {
  return {.dtype = q.dtype() == DType::float64 ? DType::float64 : DType::float32, .device = q.device()};
}

std::vector<Tensor> forward(const Case& c, const std::vector<Tensor>& in) {
  const AttentionScope scope = scope_of(c, in);
  Tensor o = empty_like(in[3]), lse = empty({c.B, c.H, c.N}, statistics_of(in[0]));
  if (in[0].device().is_cuda()) {
    cuda::dot_product_mma(o, lse, in[0], in[1], in[2], scope);
  } else {
    cpu::dot_product(o, lse, in[0], in[1], in[2], scope);
  }
  return {o, lse};
}

void check_forward(const Case& c, double units = 4) {
  CAPTURE(c.N);
  CAPTURE(c.M);
  CAPTURE(c.D);
  CAPTURE(c.Dv);
  check_on_cuda(
      inputs_of(c), [&](const std::vector<Tensor>& in) { return forward(c, in); }, half_types, units);
}

/// lse and delta of `in`, computed by the CPU in float64: the backward is tested for itself.
std::pair<Tensor, Tensor> exact_statistics(const Case& c, const std::vector<Tensor>& in) {
  const std::vector<Tensor> exact = converted(moved(in, Device::cpu()), DType::float64);
  const AttentionScope scope = scope_of(c, exact);
  Tensor o = empty_like(exact[3]), lse = empty({c.B, c.H, c.N}, exact[0].options()), delta = empty_like(lse);
  cpu::dot_product(o, lse, exact[0], exact[1], exact[2], scope);
  cpu::dot_product_delta(delta, exact[3], o, exact[8], exact[0], exact[1], lse, scope);
  const DType dtype = statistics_of(in[0]).dtype;
  return {to(to(lse, dtype), in[0].device()), to(to(delta, dtype), in[0].device())};
}

std::vector<Tensor> backward(const Case& c, const std::vector<Tensor>& in) {
  const AttentionScope scope = scope_of(c, in);
  const auto [lse, delta] = exact_statistics(c, in);
  Tensor dq = empty_like(in[0]), dk = empty_like(in[1]), dv = empty_like(in[2]), dbias;
  if (scope.bias.defined()) dbias = empty_like(scope.bias);
  if (in[0].device().is_cuda()) {
    cuda::dot_product_mma_backward(dq, dk, dv, dbias, in[3], in[8], in[0], in[1], in[2], lse, delta, scope);
  } else {
    cpu::dot_product_backward(dq, dk, dv, dbias, in[3], in[8], in[0], in[1], in[2], lse, delta, scope);
  }
  std::vector<Tensor> grads{dq, dk, dv};
  if (dbias.defined()) grads.push_back(dbias);
  return grads;
}

void check_backward(const Case& c, double units = 4) {
  CAPTURE(c.N);
  CAPTURE(c.M);
  CAPTURE(c.D);
  CAPTURE(c.Dv);
  check_on_cuda(
      inputs_of(c), [&](const std::vector<Tensor>& in) { return backward(c, in); }, half_types, units);
}

void check(const Case& c) {
  check_forward(c);
  check_backward(c);
}

}  // namespace

TEST_CASE("cuda: attention on tensor cores, sizes around the limits of tiles") {
  for (const bool causal : {false, true}) {
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{1, 2}, {1, 129}, {7, 63}, {64, 64}, {65, 128}, {129, 200}, {200, 65}}) {
      Case c{.N = n, .M = m};
      c.scope.scale = 0.125;
      if (causal) c.scope.right = 0;
      check(c);
    }
  }
  for (const auto& [d, dv] : {std::pair<int64_t, int64_t>{5, 5}, {16, 80}, {128, 128}, {80, 3}, {256, 256}, {136, 17}}) {
    Case c{.H = 2, .Hkv = 1, .N = 70, .M = 67, .D = d, .Dv = dv};
    c.scope.scale = 0.1;
    c.scope.right = 0;
    check(c);
  }
}

TEST_CASE("cuda: attention on tensor cores, every option at once") {
  for (const int64_t m : {130, 132}) {  // keys that are no multiple of four cross the blocks of the dropout stream
    for (const int64_t d : {64, 128, 256}) {
      Case c{.B = 2, .H = 2, .Hkv = 1, .N = 70, .M = m, .D = d, .Dv = d};
      c.scope.scale = 0.1;
      c.scope.left = 90, c.scope.right = 5;
      c.scope.mask = random_mask({2, 1, 70, m}, 0.8, 3);
      c.scope.bias = normal({2, 70, m}, 4);
      c.scope.key_lengths = from_vector<int64_t>({m - 37, m}, {2});
      c.scope.dropout = 0.2, c.scope.key = {.seed = 9, .offset = (uint64_t{1} << 40) + 1};
      if (m % 4 == 0) c.scope.layout = AttentionLayout::bhnd;
      c.dweights = normal({2, 2, 70, m}, 5);
      check(c);
    }
  }
}

TEST_CASE("cuda: attention on tensor cores, one option at a time") {
  Case c{.B = 2, .H = 4, .Hkv = 2, .N = 65, .M = 131, .D = 16, .Dv = 16};
  c.scope.scale = 0.25;
  SUBCASE("window") { c.scope.left = 20, c.scope.right = 10; }
  SUBCASE("window that is wider than the keys") { c.scope.left = 200, c.scope.right = 300; }
  SUBCASE("padding") { c.scope.key_lengths = from_vector<int64_t>({0, 67}, {2}); }
  SUBCASE("mask of a row") { c.scope.mask = random_mask({131}, 0.5, 5); }
  SUBCASE("mask of a column") { c.scope.mask = random_mask({4, 65, 1}, 0.5, 6); }
  SUBCASE("nothing to see") { c.scope.mask = zeros({}, {.dtype = DType::boolean}); }
  SUBCASE("bias of all") { c.scope.bias = full({}, -3e38, {.dtype = DType::float64}); }  // float16: -infinity
  SUBCASE("bias of a column") { c.scope.bias = normal({65, 1}, 7); }
  SUBCASE("bias of a row") { c.scope.bias = normal({2, 1, 1, 131}, 7) * 20.0; }
  SUBCASE("bias that rises") { c.scope.bias = to(arange(131), DType::float64); }
  SUBCASE("multipliers") { c.scope.dropout_multiplier = to(random_mask({2, 1, 65, 131}, 0.5, 8), DType::float64) * 2.0; }
  SUBCASE("all dropped") { c.scope.dropout = 1; }
  SUBCASE("negative scale") { c.scope.scale = -0.5; }
  SUBCASE("no scale") { c.scope.scale = 0, c.scope.right = 0; }
  SUBCASE("large scale") { c.scope.scale = 30; }
  SUBCASE("one key") { c.M = 1, c.D = 3; }
  SUBCASE("more queries than keys") { c.N = 131, c.M = 65, c.scope.right = 0; }
  check(c);
}

TEST_CASE("cuda: attention on tensor cores, NaN stays in its row; infinities") {
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), infinity, -infinity}) {
    for (const int64_t position : {0, 77, 129}) {
      Case c{.N = 9, .M = 130, .D = 8, .Dv = 8};
      c.scope.bias = zeros({9, 130}, {.dtype = DType::float64});
      c.scope.bias.data<double>()[3 * 130 + position] = value;
      check_forward(c);
      if (value < 0) check_backward(c);
    }
  }
}

TEST_CASE("cuda: attention on tensor cores, rows that begin anywhere") {
  const int64_t n = 65 * 2 * 16;
  std::vector<Tensor> flat;
  for (uint64_t i = 0; i < 4; ++i) flat.push_back(normal({n + 3}, i));
  check_on_cuda(
      flat,
      [&](const std::vector<Tensor>& in) {
        const Shape shape{1, 65, 2, 16};
        const auto part = [&](const Tensor& x) { return reshape(x.rows(3, n + 3), shape); };
        const Case c{.H = 2, .Hkv = 2, .N = 65, .M = 65, .D = 16, .Dv = 16};
        const std::vector<Tensor> operands{part(in[0]), part(in[1]), part(in[2]), part(in[3]), {}, {}, {}, {}, {}};
        std::vector<Tensor> results = backward(c, operands);
        results.push_back(forward(c, operands)[0]);
        return results;
      },
      half_types);
}

TEST_CASE("cuda: attention on tensor cores, empty tensors") {
  check({.B = 0, .N = 3, .M = 4});
  check({.N = 0, .M = 4});
  check({.N = 3, .M = 0});
}

#ifdef WEFT_CUDA_EMULATED
TEST_CASE("cuda: attention on tensor cores gives the same bits in any order of threads and copies") {
  Case c{.B = 1, .H = 2, .Hkv = 1, .N = 150, .M = 140, .D = 80, .Dv = 16};
  c.scope.right = 0, c.scope.dropout = 0.3, c.scope.bias = normal({150, 140}, 3);
  const std::vector<Tensor> in = moved(converted(inputs_of(c), DType::bfloat16), Device::cuda());
  std::vector<std::vector<Tensor>> results;
  for (const auto time : {emulated::CopyTime::at_wait, emulated::CopyTime::at_once, emulated::CopyTime::at_wait}) {
    emulated::set_copy_time(time);
    emulated::set_seed(results.size());
    results.push_back(moved(backward(c, in), Device::cpu()));
    results.back().push_back(to(forward(c, in)[0], Device::cpu()));
  }
  for (const std::vector<Tensor>& other : results) {
    for (size_t i = 0; i < other.size(); ++i) CHECK(distance(other[i], results[0][i]) == 0);
  }
}
#endif
