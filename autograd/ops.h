// Every differentiable op, declared; the definitions are in autograd/NAME.cpp under the names of the groups below.
//
// Common to all: inputs first, then options; mixed dtypes or devices are an error that names both; a C++ scalar takes the tensor's dtype;
// axes may be negative. `at` is where the op was called: it is filled in by itself and shows in anomaly reports.
#pragma once

#include <optional>
#include <vector>

#include "weft/autograd/graph.h"
#include "weft/core/gate.h"
#include "weft/core/random.h"

namespace weft {

// ---- elementwise ---------------------------------------------------------------------------------------------------------------------

// From core/elementwise.def: neg, abs, sign, floor, round, square, sqrt, exp, ..., add_scalar(x, p), ..., add(a, b), ..., equal(a, b), ...
// Derivatives are zero where a function is flat; round takes halves to even.
#define UNARY(name, f, dydx, low, high) Tensor name(const Tensor& x, Location at = Location::current());
#define UNARY_P(name, f, dydx, low, high, sample_p) Tensor name(const Tensor& x, double p, Location at = Location::current());
#define BINARY(name, f, dyda, dydb, low, high) Tensor name(const Tensor& a, const Tensor& b, Location at = Location::current());
#define COMPARE(name, f) Tensor name(const Tensor& a, const Tensor& b);
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P
#undef BINARY
#undef COMPARE

/// One side of an operator: remembers where the expression stands, which an operator has no parameter for.
struct Operand {
  Operand(const Tensor& x, Location where = Location::current()) : tensor(x), at(where) {}
  const Tensor& tensor;
  Location at;
};
inline Tensor operator-(Operand x) { return neg(x.tensor, x.at); }
inline Tensor operator+(Operand a, const Tensor& b) { return add(a.tensor, b, a.at); }
inline Tensor operator-(Operand a, const Tensor& b) { return sub(a.tensor, b, a.at); }
inline Tensor operator*(Operand a, const Tensor& b) { return mul(a.tensor, b, a.at); }
inline Tensor operator/(Operand a, const Tensor& b) { return div(a.tensor, b, a.at); }
inline Tensor operator+(Operand a, double b) { return add_scalar(a.tensor, b, a.at); }
inline Tensor operator-(Operand a, double b) { return add_scalar(a.tensor, -b, a.at); }
inline Tensor operator*(Operand a, double b) { return mul_scalar(a.tensor, b, a.at); }
inline Tensor operator/(Operand a, double b) { return mul_scalar(a.tensor, 1 / b, a.at); }
inline Tensor operator+(double a, Operand b) { return add_scalar(b.tensor, a, b.at); }
inline Tensor operator-(double a, Operand b) { return rsub_scalar(b.tensor, a, b.at); }
inline Tensor operator*(double a, Operand b) { return mul_scalar(b.tensor, a, b.at); }
inline Tensor operator/(double a, Operand b) { return rdiv_scalar(b.tensor, a, b.at); }

/// x between low and high; the gradient flows where low <= x <= high.
Tensor clamp(const Tensor& x, double low, double high, Location at = Location::current());
/// Another dtype; between floating point types the gradient is converted back.
Tensor to(const Tensor& x, DType dtype, Location at = Location::current());
/// Another device; the gradient comes back.
Tensor to(const Tensor& x, Device device, Location at = Location::current());
/// bool tensors.
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);
Tensor logical_not(const Tensor& x);
/// mask ? a : b, all broadcasting.
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b, Location at = Location::current());
/// mask ? value : x; mask broadcasts to x. The gradient is zero where filled.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value, Location at = Location::current());
/// Zeroes each element with probability p and scales the rest by 1 / (1 - p). `key` names the random stream: default_generator().next().
Tensor dropout(const Tensor& x, double p, RandomKey key, Location at = Location::current());
/// Gated units over the two halves of the last axis: activation(first half) * second half.
Tensor gated(const Tensor& h, Gate activation, Location at = Location::current());

// ---- matmul --------------------------------------------------------------------------------------------------------------------------
struct MatmulOptions {
  bool transpose_a = false, transpose_b = false;
  double alpha = 1;
};
/// alpha * op(a) op(b) over the last two axes; leading axes broadcast. a [.., N, K], b [.., K, M] -> [.., N, M].
Tensor matmul(const Tensor& a, const Tensor& b, MatmulOptions options = {}, Location at = Location::current());
/// x [.., I] weight^T + bias with weight [O, I], bias [O] or undefined -> [.., O].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Location at = Location::current());
/// gelu_tanh of that, on CUDA in the same kernel.
Tensor linear_gelu_tanh(const Tensor& x, const Tensor& weight, const Tensor& bias, Location at = Location::current());
/// linear in pieces, each a tensor of its own without a copy: x times the first sizes[0] rows of weight, the next sizes[1], ...
std::vector<Tensor> linear_blocks(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::vector<int64_t>& sizes,
                                  Location at = Location::current());

// ---- reduce: float32 and float64, over the given axes (in any order), or all if none are given; keep_dims leaves them as size 1 -------
Tensor sum(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false, Location at = Location::current());
Tensor mean(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false, Location at = Location::current());
/// Ties share the gradient evenly.
Tensor max(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false, Location at = Location::current());
Tensor min(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false, Location at = Location::current());
Tensor logsumexp(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false, Location at = Location::current());
/// int64 index of the first largest (smallest) element, a NaN before any number, along axis, which goes away: [.., N, ..] -> [.., ..].
Tensor argmax(const Tensor& x, int axis = -1);
Tensor argmin(const Tensor& x, int axis = -1);
/// Running sums along axis: y[i] = x[0] + ... + x[i].
Tensor cumsum(const Tensor& x, int axis, Location at = Location::current());
/// Sums x over the axes in which it is larger than `shape`: the transpose of broadcasting.
Tensor sum_to(const Tensor& x, const Shape& shape, Location at = Location::current());

// ---- softmax: `mask` (bool, true = takes part, broadcasting to x) is optional ---------------------------------------------------------
/// exp(x) / sum(exp(x)) along axis, of x's shape. A row without any true gives zeros (log_softmax: -infinity, with zero gradient).
Tensor softmax(const Tensor& x, int axis = -1, const Tensor& mask = {}, Location at = Location::current());
Tensor log_softmax(const Tensor& x, int axis = -1, const Tensor& mask = {}, Location at = Location::current());

// ---- norm: weight and bias may be undefined ------------------------------------------------------------------------------------------
/// (x - mean) / sqrt(variance + eps) * weight + bias over the last axis; weight and bias are [C] for x [.., C].
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5,
                  Location at = Location::current());
/// x / sqrt(mean(x^2) + eps) * weight over the last axis. eps undefined: the machine epsilon of the dtype, as in PyTorch.
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, std::optional<double> eps = {}, Location at = Location::current());
/// x [B, C, ...], statistics over groups of C / groups channels.
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5,
                  Location at = Location::current());
/// x / max(|x|, eps) along axis.
Tensor l2_normalize(const Tensor& x, int axis = -1, double eps = 1e-12, Location at = Location::current());

// ---- shape: any dtype. What can share x's storage does, and a change of it in place is seen in both (core/tensor.h) --------------------
/// Shares storage. One size may be -1: it is worked out from the rest. A Shape is fine, too: reshape(x, y.shape()).
Tensor reshape(const Tensor& x, const std::vector<int64_t>& sizes, Location at = Location::current());
/// Axes [first, last] become one.
Tensor flatten(const Tensor& x, int first = 0, int last = -1, Location at = Location::current());
Tensor unsqueeze(const Tensor& x, int axis, Location at = Location::current());
Tensor squeeze(const Tensor& x, int axis, Location at = Location::current());
/// Axis i of the result is axis axes[i] of x.
Tensor permute(const Tensor& x, const std::vector<int>& axes, Location at = Location::current());
Tensor transpose(const Tensor& x, int axis0 = -2, int axis1 = -1, Location at = Location::current());
/// x[begin : end : step] along axis; negative begin and end count from the back. Shares storage along axis 0 with step 1.
Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end, int64_t step = 1, Location at = Location::current());
/// One index along axis, which goes away: [.., N, ..] -> [.., ..]. A negative index counts from the back. Shares storage along axis 0.
Tensor select(const Tensor& x, int axis, int64_t index, Location at = Location::current());
/// Side by side along an axis that they have; sizes may differ there.
Tensor concat(const std::vector<Tensor>& xs, int axis, Location at = Location::current());
/// Tensors of one shape along a new axis: k of [N, M] -> [k, N, M] for axis 0, [N, k, M] for axis 1.
Tensor stack(const std::vector<Tensor>& xs, int axis = 0, Location at = Location::current());
/// Pieces of the given sizes along axis. They share storage along axis 0.
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int axis, Location at = Location::current());
/// `before` and `after` elements of `value` around axis; negative amounts crop.
Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after, double value = 0, Location at = Location::current());
/// y[i] = x[N - 1 - i] along axis.
Tensor flip(const Tensor& x, int axis, Location at = Location::current());
/// y[(i + shift) mod N] = x[i] along axis: a positive shift moves elements towards the end, and the last ones to the front.
Tensor roll(const Tensor& x, int axis, int64_t shift, Location at = Location::current());
/// Tiles: axis i becomes counts[i] times as long, [a, b] twice is [a, b, a, b].
Tensor repeat(const Tensor& x, const std::vector<int64_t>& counts, Location at = Location::current());
/// Every element `count` times in a row along axis: [a, b] twice is [a, a, b, b].
Tensor repeat_interleave(const Tensor& x, int64_t count, int axis, Location at = Location::current());
/// x repeated along its axes of size 1, and along new axes in front.
Tensor broadcast_to(const Tensor& x, const Shape& shape, Location at = Location::current());

// ---- index: int64 indices in [0, size), checked --------------------------------------------------------------------------------------
/// y[.., i, ..] = x[.., index[.., i, ..], ..]. The index has x's rank, any size along axis, and x's sizes everywhere else (not fewer, as
/// PyTorch allows).
Tensor gather(const Tensor& x, int axis, const Tensor& index, Location at = Location::current());
/// x with src[.., i, ..] added at [.., index[.., i, ..], ..].
Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& src, Location at = Location::current());
/// The listed entries of an axis: index [k], [.., N, ..] -> [.., k, ..].
Tensor index_select(const Tensor& x, int axis, const Tensor& index, Location at = Location::current());
/// weight [V, C], ids [...] -> [..., C]; the backward adds up rows in a fixed order.
Tensor embedding(const Tensor& weight, const Tensor& ids, Location at = Location::current());
/// index [...] -> [..., classes] of zeros and ones.
Tensor one_hot(const Tensor& index, int64_t classes, TensorOptions options = {});
struct SortResult {
  Tensor values;
  Tensor indices;
};
/// Sorts along axis; equal elements keep their order. NaN comes last either way (in PyTorch it is the largest), so topk takes it last, too.
SortResult sort(const Tensor& x, int axis = -1, bool descending = false, Location at = Location::current());
Tensor argsort(const Tensor& x, int axis = -1, bool descending = false);
/// The k largest (or smallest) elements along axis, in order, and their indices.
SortResult topk(const Tensor& x, int64_t k, int axis = -1, bool largest = true, Location at = Location::current());
/// bool [rows, columns]: true where column - row <= diagonal (tril), >= diagonal (triu).
Tensor tril_mask(int64_t rows, int64_t columns, int64_t diagonal = 0, Device device = default_device());
Tensor triu_mask(int64_t rows, int64_t columns, int64_t diagonal = 0, Device device = default_device());

// ---- loss ----------------------------------------------------------------------------------------------------------------------------
enum class Reduction { mean, sum, none };
struct CrossEntropyOptions {
  Reduction reduction = Reduction::mean;
  /// Rows with this target count for nothing.
  int64_t ignore_index = -100;
  double label_smoothing = 0;
};
/// logits [..., V], targets int64 [...]. Mean over the rows that are not ignored (NaN, as in PyTorch, when all are). The loss of half types
/// is float32.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options = {}, Location at = Location::current());
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean, Location at = Location::current());
/// Of logits: max(x, 0) - x * t + log(1 + exp(-|x|)).
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean,
                                        Location at = Location::current());

// ---- convolution ---------------------------------------------------------------------------------------------------------------------
struct ConvOptions {
  int64_t stride = 1, padding = 0, groups = 1;
};
/// x [B, C, H, W], weight [O, C / groups, kh, kw], bias [O] or undefined -> [B, O, oh, ow].
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, ConvOptions options = {}, Location at = Location::current());
/// x [B, C, N], weight [O, C / groups, k].
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, ConvOptions options = {}, Location at = Location::current());

}  // namespace weft
