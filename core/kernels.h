// Every core kernel, declared once for both devices and grouped by the file that holds it (core/cpu/NAME.cpp, core/cuda/NAME.cu).
//
// A kernel fills outputs that its caller allocated, assumes checked input and knows nothing about graphs. Outputs come first, then
// inputs, then scalars. An argument marked `?` may be an undefined tensor (not given, or an output nobody wants).
#pragma once

#include <span>

#ifdef WEFT_WITH_CUDA
#include "weft/core/cuda/device.h"
#endif
#include "weft/core/error.h"
#include "weft/core/gate.h"
#include "weft/core/random.h"
#include "weft/core/tensor.h"

/// Declares a kernel in weft::cpu and weft::cuda with one signature.
#define WEFT_KERNEL(...) \
  namespace cpu {        \
  __VA_ARGS__;           \
  }                      \
  namespace cuda {       \
  __VA_ARGS__;           \
  }

/// Calls the kernel of the device that `tensor` lives on. Without the CUDA backend no tensor lives there, and only the CPU branch exists.
#ifdef WEFT_WITH_CUDA
#define WEFT_LAUNCH(tensor, ...)                                              \
  do {                                                                        \
    if ((tensor).device().is_cuda()) {                                        \
      try {                                                                   \
        const ::weft::cuda::DeviceScope weft_device((tensor).device().index); \
        ::weft::cuda::__VA_ARGS__;                                            \
      } catch (const ::weft::DeviceError& weft_error) {                       \
        ::weft::detail::fail_launch(weft_error, #__VA_ARGS__, tensor);        \
      }                                                                       \
    } else {                                                                  \
      ::weft::cpu::__VA_ARGS__;                                               \
    }                                                                         \
  } while (false)
namespace weft::detail {
/// Throws the error again, with the call and the tensor it was for.
[[noreturn]] void fail_launch(const DeviceError& error, const char* call, const Tensor& tensor);
}  // namespace weft::detail
#else
#define WEFT_LAUNCH(tensor, ...) \
  do {                           \
    static_cast<void>(tensor);   \
    ::weft::cpu::__VA_ARGS__;    \
  } while (false)
#endif

namespace weft {

/// A set of axes of one tensor (bit i = axis i).
struct AxisSet {
  uint32_t bits = 0;
  bool has(int axis) const { return (bits >> axis & 1U) != 0; }
  void add(int axis) { bits |= 1U << axis; }
};

// ---- random: streams of core/random.h -------------------------------------------------------------------------------------------
WEFT_KERNEL(void fill_uniform(Tensor& y, double low, double high, RandomKey key))
WEFT_KERNEL(void fill_normal(Tensor& y, double mean, double std, RandomKey key))
WEFT_KERNEL(void fill_integers(Tensor& y, int64_t high, RandomKey key))
WEFT_KERNEL(void fill_keep_mask(Tensor& y, double p, RandomKey key))
/// y = x * keep / (1 - p). Its own backward: applied to dy with the same key.
WEFT_KERNEL(void dropout(Tensor& y, const Tensor& x, double p, RandomKey key))

// ---- elementwise: the table (core/cpu/elementwise_unary, elementwise_binary), and masks (elementwise_mask) ------------------------
// UNARY rows: y = f(x); the backward reads only what the derivative names (x or y may be undefined otherwise).
// BINARY rows: broadcasting; NAME_backward_a / _b give dy * df/da and dy * df/db at the broadcast shape.
#define UNARY(name, f, dydx, low, high)              \
  WEFT_KERNEL(void name(Tensor& y, const Tensor& x)) \
  WEFT_KERNEL(void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y))
#define UNARY_P(name, f, dydx, low, high, sample_p)            \
  WEFT_KERNEL(void name(Tensor& y, const Tensor& x, double p)) \
  WEFT_KERNEL(void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, double p))
#define BINARY(name, f, dyda, dydb, low, high)                                                                         \
  WEFT_KERNEL(void name(Tensor& y, const Tensor& a, const Tensor& b))                                                  \
  WEFT_KERNEL(void name##_backward_a(Tensor& da, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y)) \
  WEFT_KERNEL(void name##_backward_b(Tensor& db, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y))
#define COMPARE(name, f) WEFT_KERNEL(void name(Tensor& y, const Tensor& a, const Tensor& b))
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P
#undef BINARY
#undef COMPARE
/// bool: y = a && b, a || b (broadcasting), !x.
WEFT_KERNEL(void logical_and(Tensor& y, const Tensor& a, const Tensor& b))
WEFT_KERNEL(void logical_or(Tensor& y, const Tensor& a, const Tensor& b))
WEFT_KERNEL(void logical_not(Tensor& y, const Tensor& x))
/// y = mask ? a : b, all broadcasting to y.
WEFT_KERNEL(void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b))
/// y = mask ? value : x; mask broadcasts to x.
WEFT_KERNEL(void masked_fill(Tensor& y, const Tensor& x, const Tensor& mask, double value))
/// bool [.., N, M]: y[i, j] = (j - i <= diagonal), or >= when `upper`.
WEFT_KERNEL(void triangular_mask(Tensor& y, int64_t diagonal, bool upper))

// ---- fill: fills, conversions, and what the engine does to gradients ---------------------------------------------------------------
WEFT_KERNEL(void fill(Tensor& y, double value))
WEFT_KERNEL(void fill_range(Tensor& y))
/// Any dtype to any dtype.
WEFT_KERNEL(void convert(Tensor& y, const Tensor& x))
/// x += alpha * y, same shape: adding up gradients.
WEFT_KERNEL(void accumulate(Tensor& x, const Tensor& y, double alpha))
/// y int64 [2]: the number of NaN and of infinite elements of x.
WEFT_KERNEL(void count_nonfinite(Tensor& y, const Tensor& x))

// ---- gated -----------------------------------------------------------------------------------------------------------------------
/// y = gate(h[..., :F]) * h[..., F:], h [..., 2F].
WEFT_KERNEL(void gated_activation(Tensor& y, const Tensor& h, Gate gate))
WEFT_KERNEL(void gated_activation_backward(Tensor& dh, const Tensor& dy, const Tensor& h, Gate gate))

// ---- reduce: over any set of axes; y holds the remaining elements in order -------------------------------------------------------
WEFT_KERNEL(void sum(Tensor& y, const Tensor& x, AxisSet axes))
WEFT_KERNEL(void reduce_max(Tensor& y, const Tensor& x, AxisSet axes))
WEFT_KERNEL(void reduce_min(Tensor& y, const Tensor& x, AxisSet axes))
WEFT_KERNEL(void logsumexp(Tensor& y, const Tensor& x, AxisSet axes))
/// dx = dy shared evenly among the elements of x that equal y (the extreme of their group).
WEFT_KERNEL(void reduce_extreme_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes))
/// dx = dy * exp(x - y).
WEFT_KERNEL(void logsumexp_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes))

// ---- scan --------------------------------------------------------------------------------------------------------------------------
/// y int64: index of the first largest element along `axis`; NaN counts as the largest.
WEFT_KERNEL(void argmax(Tensor& y, const Tensor& x, int axis))
/// Inclusive running sum along `axis`, from the end when `reverse`.
WEFT_KERNEL(void cumsum(Tensor& y, const Tensor& x, int axis, bool reverse))

// ---- softmax: along one axis; rows whose mask is all false give zeros (log_softmax: -inf with zero gradient) ----------------------
WEFT_KERNEL(void softmax(Tensor& y, const Tensor& x, const Tensor& mask /*?*/, int axis))
WEFT_KERNEL(void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis))
WEFT_KERNEL(void log_softmax(Tensor& y, const Tensor& x, const Tensor& mask /*?*/, int axis))
WEFT_KERNEL(void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis))

// ---- cross_entropy ---------------------------------------------------------------------------------------------------------------------
/// logits [R, V], targets int64 [R]. loss [R] per row (0 where ignored), lse [R] for the backward.
WEFT_KERNEL(void cross_entropy(Tensor& loss, Tensor& lse, const Tensor& logits, const Tensor& targets, int64_t ignore_index,
                               double label_smoothing))
/// dlogits = dloss[row] * (softmax - target distribution); `dlogits` may share memory with `logits`.
WEFT_KERNEL(void cross_entropy_backward(Tensor& dlogits, const Tensor& dloss, const Tensor& logits, const Tensor& lse,
                                        const Tensor& targets, int64_t ignore_index, double label_smoothing))

// ---- norm: over the last axis (group_norm: over channel groups of [B, C, ...]); statistics are saved for the backward --------------
WEFT_KERNEL(void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight /*?*/, const Tensor& bias /*?*/,
                            double eps))
WEFT_KERNEL(void layer_norm_backward(Tensor& dx, Tensor& dweight /*?*/, Tensor& dbias /*?*/, const Tensor& dy, const Tensor& x,
                                     const Tensor& mean, const Tensor& rstd, const Tensor& weight /*?*/))
WEFT_KERNEL(void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& weight /*?*/, double eps))
WEFT_KERNEL(void rms_norm_backward(Tensor& dx, Tensor& dweight /*?*/, const Tensor& dy, const Tensor& x, const Tensor& rstd,
                                   const Tensor& weight /*?*/))
WEFT_KERNEL(void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight /*?*/, const Tensor& bias /*?*/,
                            int64_t groups, double eps))
WEFT_KERNEL(void group_norm_backward(Tensor& dx, Tensor& dweight /*?*/, Tensor& dbias /*?*/, const Tensor& dy, const Tensor& x,
                                     const Tensor& mean, const Tensor& rstd, const Tensor& weight /*?*/, int64_t groups))

// ---- normalize ------------------------------------------------------------------------------------------------------------------------
/// y = x / max(|x|, eps) along `axis`; norm holds |x|.
WEFT_KERNEL(void l2_normalize(Tensor& y, Tensor& norm, const Tensor& x, int axis, double eps))
WEFT_KERNEL(void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y, const Tensor& norm, int axis, double eps))

// ---- matmul ------------------------------------------------------------------------------------------------------------------------
/// y = alpha * op(a) op(b) (+ y when accumulate) over the last two axes; leading axes broadcast to those of y.
WEFT_KERNEL(void matmul(Tensor& y, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha, bool accumulate))

// ---- linear ------------------------------------------------------------------------------------------------------------------------
/// y [.., out] = x [.., in] weight^T + bias, weight [out, in].
WEFT_KERNEL(void linear(Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias))
/// y = gelu_tanh(h), h = x weight^T + bias.
WEFT_KERNEL(void linear_gelu_tanh(Tensor& y, Tensor& h /*?*/, const Tensor& x, const Tensor& weight, const Tensor& bias))

// ---- shape: any dtype -----------------------------------------------------------------------------------------------------------------
/// y axis i is x axis axes[i].
WEFT_KERNEL(void permute(Tensor& y, const Tensor& x, std::span<const int> axes))
/// y = x[..., begin : begin + size : step along axis, ...]; the size is y's.
WEFT_KERNEL(void slice(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step))
/// The transpose of slice: y = 0 except y[..., begin : : step, ...] = x.
WEFT_KERNEL(void slice_backward(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step))
WEFT_KERNEL(void concat(Tensor& y, std::span<const Tensor> xs, int axis))
/// y = x with `before` elements of `value` in front and the rest of y's axis behind; negative `before` crops.
WEFT_KERNEL(void pad(Tensor& y, const Tensor& x, int axis, int64_t before, double value))
WEFT_KERNEL(void flip(Tensor& y, const Tensor& x, int axis))
WEFT_KERNEL(void roll(Tensor& y, const Tensor& x, int axis, int64_t shift))
/// Tiles x along every axis until y is full.
WEFT_KERNEL(void repeat(Tensor& y, const Tensor& x))
WEFT_KERNEL(void broadcast_to(Tensor& y, const Tensor& x))

// ---- unfold: sliding windows for convolutions ----------------------------------------------------------------------------------------
/// x [B, C, H, W] -> y [B, C * kh * kw, oh * ow].
WEFT_KERNEL(void unfold(Tensor& y, const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h,
                        int64_t padding_w))
WEFT_KERNEL(void unfold_backward(Tensor& dx, const Tensor& dy, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t padding_h,
                                 int64_t padding_w))

// ---- index: int64 indices, checked by the op ------------------------------------------------------------------------------------------
/// y[.., i, ..] = x[.., index[.., i, ..], ..] along axis; index has y's shape.
WEFT_KERNEL(void gather(Tensor& y, const Tensor& x, const Tensor& index, int axis))
/// y[.., index[.., i, ..], ..] += x[.., i, ..], in the order of i.
WEFT_KERNEL(void scatter_add(Tensor& y, const Tensor& x, const Tensor& index, int axis))
/// y = x[..., index, ...] along axis; index is a list. embedding is axis 0.
WEFT_KERNEL(void index_select(Tensor& y, const Tensor& x, const Tensor& index, int axis))
/// y[..., index[i], ...] += x[..., i, ...], in the order of i: deterministic for any number of threads.
WEFT_KERNEL(void index_add(Tensor& y, const Tensor& x, const Tensor& index, int axis))
/// y [.., classes] = 1 at index, 0 elsewhere.
WEFT_KERNEL(void one_hot(Tensor& y, const Tensor& index))

// ---- check_range: of int64 indices. The CPU throws at once; on CUDA nothing waits, and the error comes with the next wait for the device
// ---
/// Every index must be in [0, size): "{op}: index 7 is out of range [0, 5) of {of}" names the first that is not.
WEFT_KERNEL(void check_range(const Tensor& index, int64_t size, const char* op, const std::string& of))
/// The same with a message of its own, in which {} and {} become the index and its place.
WEFT_KERNEL(void check_range(const Tensor& index, int64_t size, const std::string& message))
/// share, a scalar: 1 / (the number of targets that are not ignore_index). These must be in [0, classes).
WEFT_KERNEL(void target_share(Tensor& share /*?*/, const Tensor& targets, int64_t classes, int64_t ignore_index,
                              const std::string& message))

// ---- sort ------------------------------------------------------------------------------------------------------------------------------
/// The first values.size(axis) elements of the order along axis, stable for ties, and where they come from. NaN sorts last.
WEFT_KERNEL(void sort(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending))
WEFT_KERNEL(void topk(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool largest))

// ---- rotary: position embedding ---------------------------------------------------------------------------------------------------------
/// Turns feature pairs (2i, 2i + 1), or (i, i + R / 2) when `half_split`, of element n along `axis` by the angle whose cosine and sine are
/// cos[first + n, i] and sin[first + n, i] (tables [positions, R / 2], float32 for the half types), by the opposite angle when `inverse`.
/// Features from R on are copied.
WEFT_KERNEL(void rotary(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin, int axis, int64_t first, bool half_split,
                        bool inverse))

// ---- optimizer: one pass over all parameters; the caller counts the change in place (Tensor::bump_version) ---------------------------
/// One parameter and what belongs to it; moments may be undefined where the rule needs none. A parameter in half precision has float32
/// moments and a float32 `master`: the step is computed on that, and the parameter is its rounded copy. (Elements that are not were changed
/// by somebody else, and count.) `step`, an int64 scalar beside them, holds the number of steps so far, and a step that is not left out
/// adds one.
struct ParameterSlot {
  Tensor value = {}, grad = {}, moment1 = {}, moment2 = {}, max_moment2 = {}, master = {}, step = {};
  double lr = 0, weight_decay = 0;
};
struct AdamRule {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool decoupled = false, amsgrad = false;
  /// Both multiply every gradient; the tensor (? float64 scalar on the device) is read by the kernel, so nobody waits for it.
  double grad_scale = 1;
  Tensor grad_scale_tensor = {};
  bool skip_nonfinite = false;  // nothing changes if their product is NaN or infinite
};
struct SgdRule {
  double momentum = 0, dampening = 0;
  bool nesterov = false;
  double grad_scale = 1;  // as in AdamRule
  Tensor grad_scale_tensor = {};
  bool skip_nonfinite = false;
};
WEFT_KERNEL(void adam_step(std::span<ParameterSlot> slots, const AdamRule& rule))
WEFT_KERNEL(void sgd_step(std::span<ParameterSlot> slots, const SgdRule& rule))
/// y float64 scalar: sum of squares over all tensors, in a fixed order.
WEFT_KERNEL(void squared_norm(Tensor& y, std::span<const Tensor> xs))
/// average = decay * average + (1 - decay) * value for every slot (value, moment1 = average).
WEFT_KERNEL(void ema_step(std::span<ParameterSlot> slots, double decay))

}  // namespace weft
