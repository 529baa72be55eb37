// A fused mechanism against its composition of ops: values, weights and every gradient from the same random cotangents.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "testing.h"
#include "weft/attention/mechanism.h"

namespace weft::testing {

/// One attention problem; sizes as in AttentionSizes.
struct AttentionCase {
  int64_t B = 2, H = 4, Hkv = 2, N = 7, M = 9, D = 5, Dv = 5;
  AttendOptions options = {};
  DType dtype = DType::float64;
  uint64_t seed = 1;
};

using Attend = std::function<Attended(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options)>;

struct AttentionResult {
  Tensor y, weights;
  Tensor dq, dk, dv, dbias;
};

inline Tensor attention_input(const AttentionCase& c, int64_t heads, int64_t rows, int64_t width, uint64_t seed) {
  const bool heads_first = c.options.layout == AttentionLayout::bhnd;
  return to(normal(heads_first ? Shape{c.B, heads, rows, width} : Shape{c.B, rows, heads, width}, seed), c.dtype);
}

/// Forward and backward of `attend` on the inputs of `c`.
inline AttentionResult run_attention(const Attend& attend, const AttentionCase& c) {
  const Tensor q = parameter(attention_input(c, c.H, c.N, c.D, 4 * c.seed)),
               k = parameter(attention_input(c, c.Hkv, c.M, c.D, 4 * c.seed + 1)),
               v = parameter(attention_input(c, c.Hkv, c.M, c.Dv, 4 * c.seed + 2));
  AttendOptions options = c.options;
  std::vector<Tensor> inputs{q, k, v};
  if (options.bias.defined()) inputs.push_back(options.bias = parameter(options.bias));
  const Attended out = attend(q, k, v, options);
  std::vector<Tensor> outputs{out.y}, cotangents{attention_input(c, c.H, c.N, c.Dv, 4 * c.seed + 3)};
  if (out.weights.defined()) {
    outputs.push_back(out.weights);
    cotangents.push_back(to(normal(out.weights.shape(), 4 * c.seed + 5), c.dtype));
  }
  const Grads grads = gradients(outputs, cotangents, inputs);
  AttentionResult result{detach(out.y), {}, grads[0], grads[1], grads[2], {}};
  if (out.weights.defined()) result.weights = detach(out.weights);
  if (options.bias.defined()) result.dbias = grads[3];
  return result;
}

/// The largest |a - b| / (1 + largest |b|), infinite for NaN where b has none.
inline double distance(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined() || !b.defined()) return a.defined() == b.defined() ? 0 : INFINITY;
  if (a.shape() != b.shape()) return INFINITY;
  const std::vector<double> x = to(a, DType::float64).to_vector<double>(), y = to(b, DType::float64).to_vector<double>();
  double difference = 0, scale = 1;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) != std::isnan(y[i])) return INFINITY;
    if (!std::isnan(x[i])) difference = std::max(difference, std::fabs(x[i] - y[i]));
    if (!std::isnan(y[i])) scale = std::max(scale, std::fabs(y[i]));
  }
  return difference / scale;
}

inline void check_same(const AttentionResult& a, const AttentionResult& b, double tolerance) {
  CHECK(distance(a.y, b.y) <= tolerance);
  CHECK(distance(a.weights, b.weights) <= tolerance);
  CHECK(distance(a.dq, b.dq) <= tolerance);
  CHECK(distance(a.dk, b.dk) <= tolerance);
  CHECK(distance(a.dv, b.dv) <= tolerance);
  CHECK(distance(a.dbias, b.dbias) <= tolerance);
}

inline void check_against_reference(const Attend& fused, const Attend& reference, const AttentionCase& c, double tolerance = 1e-12) {
  CAPTURE(c.B);
  CAPTURE(c.H);
  CAPTURE(c.Hkv);
  CAPTURE(c.N);
  CAPTURE(c.M);
  CAPTURE(c.D);
  CAPTURE(c.Dv);
  CAPTURE(c.options.causal);
  check_same(run_attention(fused, c), run_attention(reference, c), tolerance);
}

/// Exactly the same bits.
inline bool identical(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  const Tensor x = to_host(a), y = to_host(b);
  const auto* begin = static_cast<const std::byte*>(x.raw());
  return x.shape() == y.shape() && std::equal(begin, begin + x.bytes(), static_cast<const std::byte*>(y.raw()));
}
inline bool identical(const AttentionResult& a, const AttentionResult& b) {
  return identical(a.y, b.y) && identical(a.weights, b.weights) && identical(a.dq, b.dq) && identical(a.dk, b.dk) &&
         identical(a.dv, b.dv) && identical(a.dbias, b.dbias);
}

/// A random bool mask of which about `visible` is true.
inline Tensor random_mask(const Shape& shape, double visible, uint64_t seed) { return keep_mask(shape, 1 - visible, {.seed = seed}); }

}  // namespace weft::testing
