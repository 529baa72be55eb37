// Optimizer steps: every parameter in one parallel pass, cut into pieces of equal size, so that threads get equal work whatever the
// parameters' sizes.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/optimizer.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t step_piece = 1 << 14;  // elements

struct Piece {
  size_t tensor;
  int64_t begin, end;
};

// Calls f(piece, index of the piece) for pieces of all tensors; size_of(t) is the number of elements of tensor t.
template <class SizeOf>
std::vector<Piece> cut(size_t tensors, SizeOf size_of) {
  std::vector<Piece> pieces;
  for (size_t t = 0; t < tensors; ++t) {
    const int64_t size = size_of(t);
    for (int64_t begin = 0; begin < size; begin += step_piece) pieces.push_back({t, begin, std::min(size, begin + step_piece)});
  }
  return pieces;
}

// f.operator()<T>(slot, begin, end) for pieces of all slots.
template <class F>
void for_each_piece(std::span<ParameterSlot> slots, const char* op, F f) {
  const std::vector<Piece> pieces = cut(slots.size(), [&](size_t t) { return slots[t].value.numel(); });
  parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) HWY_ATTR {
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = pieces[static_cast<size_t>(p)];
      ParameterSlot& slot = slots[piece.tensor];
      dispatch_float(slot.value.dtype(), op, [&]<class T>() HWY_ATTR { f.template operator()<T>(slot, piece.begin, piece.end); });
    }
  });
}

// What multiplies the gradients of a rule, and whether the step is left out.
template <class Rule>
double scale_of(const Rule& rule) {
  return rule.grad_scale * (rule.grad_scale_tensor.defined() ? *rule.grad_scale_tensor.template data<double>() : 1);
}
template <class Rule>
bool is_skipped(const Rule& rule) {
  return rule.skip_nonfinite && !std::isfinite(scale_of(rule));
}

int64_t step_of(const ParameterSlot& slot) { return *slot.step.data<int64_t>(); }
void count_step(std::span<ParameterSlot> slots) {
  for (ParameterSlot& slot : slots) ++*slot.step.data<int64_t>();
}

// In PyTorch's order of operations:
//   g = grad_scale * grad;  decoupled: p *= 1 - lr * weight_decay,  else g += weight_decay * p
//   m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;  amsgrad: v' = max(v', v), else v' = v
//   p -= lr / (1 - beta1^step) * m / (sqrt(v') / sqrt(1 - beta2^step) + eps)
void adam_step(std::span<ParameterSlot> slots, const AdamRule& rule) {
  if (is_skipped(rule)) return;
  const double grad_scale = scale_of(rule);
  count_step(slots);
  for_each_piece(slots, "adam_step", [&]<class T>(ParameterSlot& slot, int64_t begin, int64_t end) HWY_ATTR {
    using S = Simd<T>;
    const auto step = static_cast<double>(step_of(slot));
    const double correction1 = 1 - std::pow(rule.beta1, step), correction2 = std::sqrt(1 - std::pow(rule.beta2, step));
    T* const p = slot.value.data<T>() + begin;
    const T* const grad = slot.grad.data<T>() + begin;
    T* const m = slot.moment1.data<T>() + begin;
    T* const v = slot.moment2.data<T>() + begin;
    T* const largest = rule.amsgrad ? slot.max_moment2.data<T>() + begin : nullptr;
    const S scale = grad_scale, keep = rule.decoupled ? 1 - slot.lr * slot.weight_decay : 1;
    const S decay = rule.decoupled ? 0 : slot.weight_decay;
    const S rate1 = 1 - rule.beta1, beta2 = rule.beta2, rate2 = 1 - rule.beta2;
    const S step_size = slot.lr / correction1, inverse_root = 1 / correction2, eps = rule.eps;
    each_vector<T>(end - begin, [&](int64_t i, int64_t n) HWY_ATTR {
      S value = S::load_n(p + i, n) * keep;
      const S g = mul_add(decay, value, S::load_n(grad + i, n) * scale);
      const S old_m = S::load_n(m + i, n);
      const S new_m = mul_add(rate1, g - old_m, old_m);
      S new_v = mul_add(rate2 * g, g, S::load_n(v + i, n) * beta2);
      new_m.store_n(m + i, n);
      new_v.store_n(v + i, n);
      if (largest != nullptr) {
        new_v = max(S::load_n(largest + i, n), new_v);
        new_v.store_n(largest + i, n);
      }
      value -= step_size * (new_m / (sqrt(new_v) * inverse_root + eps));
      value.store_n(p + i, n);
    });
  });
}

// g = grad_scale * grad + weight_decay * p;  with momentum: b = momentum * b + (1 - dampening) g (b = g at the first step),
// g = b, or g + momentum * b with nesterov;  p -= lr * g
void sgd_step(std::span<ParameterSlot> slots, const SgdRule& rule) {
  if (is_skipped(rule)) return;
  const double grad_scale = scale_of(rule);
  count_step(slots);
  for_each_piece(slots, "sgd_step", [&]<class T>(ParameterSlot& slot, int64_t begin, int64_t end) HWY_ATTR {
    using S = Simd<T>;
    T* const p = slot.value.data<T>() + begin;
    const T* const grad = slot.grad.data<T>() + begin;
    T* const buffer = rule.momentum != 0 ? slot.moment1.data<T>() + begin : nullptr;
    const S scale = grad_scale, decay = slot.weight_decay, lr = slot.lr;
    const bool first = step_of(slot) == 1;
    const S momentum = rule.momentum, rate = 1 - rule.dampening;
    each_vector<T>(end - begin, [&](int64_t i, int64_t n) HWY_ATTR {
      const S value = S::load_n(p + i, n);
      S g = mul_add(decay, value, S::load_n(grad + i, n) * scale);
      if (buffer != nullptr) {
        const S b = first ? g : mul_add(rate, g, S::load_n(buffer + i, n) * momentum);
        b.store_n(buffer + i, n);
        g = rule.nesterov ? mul_add(momentum, b, g) : b;
      }
      (value - lr * g).store_n(p + i, n);
    });
  });
}

void ema_step(std::span<ParameterSlot> slots, double decay) {
  for_each_piece(slots, "ema_step", [&]<class T>(ParameterSlot& slot, int64_t begin, int64_t end) HWY_ATTR {
    using S = Simd<T>;
    const T* const value = std::as_const(slot.value).data<T>() + begin;
    T* const average = slot.moment1.data<T>() + begin;
    const S rate = 1 - decay;
    each_vector<T>(end - begin, [&](int64_t i, int64_t n) HWY_ATTR {
      const S a = S::load_n(average + i, n);
      mul_add(rate, S::load_n(value + i, n) - a, a).store_n(average + i, n);
    });
  });
}

// ---- norm of all gradients --------------------------------------------------------------------------------------------------------------

// In double, so that float32 gradients neither overflow nor lose what small elements add up to.
template <class T>
double sum_of_squares(const T* x, int64_t size) {
  using S = Simd<double>;
  constexpr int64_t lanes = S::lanes();
  S a = 0, b = 0, c = 0, d = 0;
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    a += square(load_double(x + i));
    b += square(load_double(x + i + lanes));
    c += square(load_double(x + i + 2 * lanes));
    d += square(load_double(x + i + 3 * lanes));
  }
  double total = sum((a + b) + (c + d));
  for (; i < size; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

void squared_norm(Tensor& y, std::span<const Tensor> xs) {
  const std::vector<Piece> pieces = cut(xs.size(), [&](size_t t) { return xs[t].numel(); });
  std::vector<double> partial(pieces.size());
  parallel_for(static_cast<int64_t>(pieces.size()), 2, [&](int64_t first, int64_t last) HWY_ATTR {
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = pieces[static_cast<size_t>(p)];
      const Tensor& x = xs[piece.tensor];
      dispatch_float(x.dtype(), "squared_norm", [&]<class T>() HWY_ATTR {
        partial[static_cast<size_t>(p)] = sum_of_squares(x.data<T>() + piece.begin, piece.end - piece.begin);
      });
    }
  });
  double total = 0;
  for (double part : partial) total += part;
  *y.data<double>() = total;
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(adam_step);
HWY_EXPORT(sgd_step);
HWY_EXPORT(ema_step);
HWY_EXPORT(squared_norm);

void adam_step(std::span<ParameterSlot> slots, const AdamRule& rule) { HWY_DYNAMIC_DISPATCH(adam_step)(slots, rule); }
void sgd_step(std::span<ParameterSlot> slots, const SgdRule& rule) { HWY_DYNAMIC_DISPATCH(sgd_step)(slots, rule); }
void ema_step(std::span<ParameterSlot> slots, double decay) { HWY_DYNAMIC_DISPATCH(ema_step)(slots, decay); }
void squared_norm(Tensor& y, std::span<const Tensor> xs) { HWY_DYNAMIC_DISPATCH(squared_norm)(y, xs); }

}  // namespace weft::cpu
#endif  // HWY_ONCE
