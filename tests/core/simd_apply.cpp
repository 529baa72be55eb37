#include "core/simd_apply.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd_apply.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/math-inl.h"

#include <stdexcept>

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

using weft::HWY_NAMESPACE::Simd;

template <class T, class F>
bool apply_each(F f, T* y, const T* x, int64_t n) {
  using S = Simd<T>;
  for (int64_t i = 0; i < n; i += S::lanes()) f(S::load_n(x + i, n - i)).store_n(y + i, n - i);
  return true;
}

template <class T>
bool apply_unary(const std::string& name, T* y, const T* in, int64_t n) {
  using S = Simd<T>;
#define WEFT_TEST_UNARY(function, formula) \
  if (name == function) return apply_each([](S x) HWY_ATTR -> S { return formula; }, y, in, n)
  WEFT_TEST_UNARY("exp", exp(x));
  WEFT_TEST_UNARY("exp_nonpositive", exp_nonpositive(x));
  WEFT_TEST_UNARY("expm1", expm1(x));
  WEFT_TEST_UNARY("log", log(x));
  WEFT_TEST_UNARY("log1p", log1p(x));
  WEFT_TEST_UNARY("tanh", tanh(x));
  WEFT_TEST_UNARY("erf", erf(x));
  WEFT_TEST_UNARY("sigmoid", sigmoid(x));
  WEFT_TEST_UNARY("softplus", softplus(x));
  WEFT_TEST_UNARY("sin", sin(x));
  WEFT_TEST_UNARY("cos", cos(x));
  WEFT_TEST_UNARY("sqrt", sqrt(x));
  WEFT_TEST_UNARY("rsqrt", rsqrt(x));
  WEFT_TEST_UNARY("floor", floor(x));
  WEFT_TEST_UNARY("abs", abs(x));
  WEFT_TEST_UNARY("square", square(x));
  WEFT_TEST_UNARY("copy", x);
  // Literals, comparisons and masks, as formulas use them.
  WEFT_TEST_UNARY("formula", select((x > 0 && !(x >= 2)) || is_nan(x), 1 - x * x, T(0.5) * x + 3));
#undef WEFT_TEST_UNARY
  return false;
}

template <class T>
bool apply_binary(const std::string& name, T* y, const T* a, const T* b, int64_t n) {
  using S = Simd<T>;
  const auto each = [&](auto f) HWY_ATTR {
    for (int64_t i = 0; i < n; i += S::lanes()) f(S::load_n(a + i, n - i), S::load_n(b + i, n - i)).store_n(y + i, n - i);
    return true;
  };
  if (name == "pow") return each([](S u, S v) HWY_ATTR { return pow(u, v); });
  if (name == "max") return each([](S u, S v) HWY_ATTR { return max(u, v); });
  if (name == "min") return each([](S u, S v) HWY_ATTR { return min(u, v); });
  return false;
}

template <class T>
bool reduce(const std::string& name, T* y, const T* x, int64_t n) {
  using S = Simd<T>;
  constexpr T inf = std::numeric_limits<T>::infinity();
  S total = 0, largest = -inf, smallest = inf;
  for (int64_t i = 0; i < n; i += S::lanes()) {
    total += S::load_n(x + i, n - i);
    largest = max(largest, S::load_n(x + i, n - i, -inf));
    smallest = min(smallest, S::load_n(x + i, n - i, inf));
  }
  if (name == "sum") return *y = sum(total), true;
  if (name == "max_of") return *y = max_of(largest), true;
  if (name == "min_of") return *y = min_of(smallest), true;
  return false;
}

// Highway dispatches plain functions, not templates.
bool unary_float(const std::string& name, float* y, const float* x, int64_t n) { return apply_unary(name, y, x, n); }
bool unary_double(const std::string& name, double* y, const double* x, int64_t n) { return apply_unary(name, y, x, n); }
bool binary_float(const std::string& name, float* y, const float* a, const float* b, int64_t n) { return apply_binary(name, y, a, b, n); }
bool binary_double(const std::string& name, double* y, const double* a, const double* b, int64_t n) {
  return apply_binary(name, y, a, b, n);
}
bool reduce_float(const std::string& name, float* y, const float* x, int64_t n) { return reduce(name, y, x, n); }
bool reduce_double(const std::string& name, double* y, const double* x, int64_t n) { return reduce(name, y, x, n); }

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(unary_float);
HWY_EXPORT(unary_double);
HWY_EXPORT(binary_float);
HWY_EXPORT(binary_double);
HWY_EXPORT(reduce_float);
HWY_EXPORT(reduce_double);

namespace {
void require(bool known, const std::string& name) {
  if (!known) throw std::invalid_argument("simd_apply: unknown function " + name);
}
}  // namespace

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  hwy::SetSupportedTargetsForTest(0);
  for (int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0; targets &= targets - 1) {
    names.emplace_back(hwy::TargetName(targets & -targets));
  }
  return names;
}

void use_simd_target(const std::string& target) {
  hwy::SetSupportedTargetsForTest(0);
  for (int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0; targets &= targets - 1) {
    if (hwy::TargetName(targets & -targets) == target) hwy::SetSupportedTargetsForTest(targets & -targets);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

void simd_apply(const std::string& name, float* y, const float* x, int64_t n) {
  require(HWY_DYNAMIC_DISPATCH(unary_float)(name, y, x, n), name);
}
void simd_apply(const std::string& name, double* y, const double* x, int64_t n) {
  require(HWY_DYNAMIC_DISPATCH(unary_double)(name, y, x, n), name);
}
void simd_apply(const std::string& name, float* y, const float* a, const float* b, int64_t n) {
  require(HWY_DYNAMIC_DISPATCH(binary_float)(name, y, a, b, n), name);
}
void simd_apply(const std::string& name, double* y, const double* a, const double* b, int64_t n) {
  require(HWY_DYNAMIC_DISPATCH(binary_double)(name, y, a, b, n), name);
}
float simd_reduce(const std::string& name, const float* x, int64_t n) {
  float y = 0;
  require(HWY_DYNAMIC_DISPATCH(reduce_float)(name, &y, x, n), name);
  return y;
}
double simd_reduce(const std::string& name, const double* x, int64_t n) {
  double y = 0;
  require(HWY_DYNAMIC_DISPATCH(reduce_double)(name, &y, x, n), name);
  return y;
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
