// The SIMD functions against the C library in higher precision, on every instruction set that this machine runs.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/simd_apply.h"
#include "weft/core/math.h"

TEST_SUITE_BEGIN("host");

namespace weft::cpu {
namespace {

using Wide = long double;
constexpr double inf = std::numeric_limits<double>::infinity();
#ifdef WEFT_SANITIZED
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif
constexpr int points = sanitized ? 4000 : 40000;  // on each side of zero

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

/// |y - exact| in units of the last place of T at `exact`; infinite where one is NaN or infinite (in T) and the other is not.
template <class T>
double ulp_error(T y, Wide exact) {
  if (std::isnan(exact) || std::isnan(y)) return std::isnan(exact) && std::isnan(y) ? 0 : inf;
  const T rounded = static_cast<T>(exact);
  if (std::isinf(rounded) || std::isinf(y)) {
    // One step away from infinity is an error of one unit.
    if (y == rounded) return 0;
    return std::abs(y) == std::numeric_limits<T>::max() || std::abs(rounded) == std::numeric_limits<T>::max() ? 1 : inf;
  }
  const int exponent =
      exact == 0 ? std::numeric_limits<T>::min_exponent : std::max(std::ilogb(exact) + 1, std::numeric_limits<T>::min_exponent);
  return static_cast<double>(std::fabs(static_cast<Wide>(y) - exact) / std::ldexp(Wide(1), exponent - std::numeric_limits<T>::digits));
}

/// The values with the bits first, first + stride, ...: at most `most` of them.
template <class T>
std::vector<T> bit_patterns(uint64_t first, uint64_t stride, uint64_t most) {
  std::vector<T> x;
  constexpr uint64_t last = std::numeric_limits<Bits<T>>::max();
  for (uint64_t bits = first; x.size() < most; bits += stride) {
    x.push_back(std::bit_cast<T>(static_cast<Bits<T>>(bits)));
    if (last - bits < stride) break;
  }
  return x;
}

/// Special values with their neighbours, and even grids where the functions do something: most bit patterns are huge or tiny.
template <class T>
std::vector<T> near_points() {
  using L = std::numeric_limits<T>;
  std::vector<T> x;
  for (double special : {0.0,
                         0.5,
                         1.0,
                         2.0,
                         3.0,
                         10.0,
                         0.3465735902799727,
                         0.625,
                         0.6931471805599453,
                         0.7071067811865476,
                         1.4142135623730951,
                         3.95,
                         5.95,
                         18.0,
                         38.0,
                         87.3,
                         87.33654,
                         88.72284,
                         103.97,
                         150.0,
                         708.3,
                         708.396,
                         709.7827,
                         745.1332,
                         746.0,
                         1048576.0}) {
    x.push_back(static_cast<T>(special));
  }
  x.insert(x.end(), {L::denorm_min(), L::min(), L::epsilon(), L::epsilon() / 2, L::max(), L::infinity(), L::quiet_NaN()});
  for (size_t i = 0, n = x.size(); i < n; ++i) {
    for (T v : {-x[i], std::nextafter(x[i], T(0)), -std::nextafter(x[i], T(0)), std::nextafter(x[i], L::infinity()),
                -std::nextafter(x[i], L::infinity())}) {
      x.push_back(v);
    }
  }
  for (double step : {5.1e-5, 0.003, 0.0375}) {
    for (int i = -points; i <= points; ++i) x.push_back(static_cast<T>(i * step * 1.0000123));
  }
  return x;
}

/// The least argument that is checked, which may differ between float and double.
struct Lowest {
  double of_float, of_double;
  double of(float) const { return of_float; }
  double of(double) const { return of_double; }
};

struct Function {
  const char* name;
  Wide (*exact)(Wide);
  double (*exact_float)(double);  // good enough for float results
  double bound_float, bound_double;
  Lowest lowest = {-inf, -inf};
  double highest = inf;
};

template <class T>
T sigmoid_exact(T x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
template <class T>
T softplus_exact(T x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
template <class T>
T rsqrt_exact(T x) {
  return 1 / std::sqrt(x);
}

// The bounds that math-inl.h states.
const Function functions[] = {
    {"exp", std::exp, std::exp, 1.25, 1.25},
    {"exp_nonpositive", std::exp, std::exp, 1.25, 1.25, {-87.3f, -708.3}, 0},
    {"expm1", std::expm1, std::expm1, 2, 2.5},
    {"log", std::log, std::log, 1, 1},
    {"log1p", std::log1p, std::log1p, 1.5, 1.5},
    {"tanh", std::tanh, std::tanh, 1.5, 1.5},
    {"erf", std::erf, std::erf, 1.5, 1.5},
    {"sigmoid", sigmoid_exact, sigmoid_exact, 2.5, 2.5},
    {"softplus", softplus_exact, softplus_exact, 2, 2},
    {"sin", std::sin, std::sin, 0.51, 2},
    {"cos", std::cos, std::cos, 0.51, 2},
    {"sqrt", std::sqrt, std::sqrt, 0.501, 0.501},
    {"rsqrt", rsqrt_exact, rsqrt_exact, 1.5, 1.5},
};

struct Worst {
  double error = 0, at = 0;
};

template <class T>
Worst worst_error(const char* name, const std::vector<T>& x, const std::vector<Wide>& exact) {
  std::vector<T> y(x.size());
  simd_apply(name, y.data(), x.data(), static_cast<int64_t>(x.size()));
  Worst worst;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = ulp_error(y[i], exact[i]);
    if (error > worst.error) worst = {error, static_cast<double>(x[i])};
  }
  return worst;
}

/// Every function on every instruction set; the reference is computed once. WEFT_TEST_SHOW_ULP=1 prints the errors.
template <class T>
void check_all(const std::vector<T>& all, double Function::*bound) {
  const char* type = sizeof(T) == 4 ? "float" : "double";
  for (const Function& f : functions) {
    std::vector<T> x;
    std::copy_if(all.begin(), all.end(), std::back_inserter(x), [&](T v) { return !(v < f.lowest.of(T()) || v > f.highest); });
    std::vector<Wide> exact(x.size());
    std::transform(x.begin(), x.end(), exact.begin(),
                   [&](T v) { return sizeof(T) == 4 ? Wide(f.exact_float(static_cast<double>(v))) : f.exact(v); });
    for (const std::string& target : simd_targets()) {
      use_simd_target(target);
      const Worst worst = worst_error(f.name, x, exact);
      if (std::getenv("WEFT_TEST_SHOW_ULP"))
        std::printf("%-7s %-6s %-16s %6.3f ulp at %.9g\n", target.c_str(), type, f.name, worst.error, worst.at);
      INFO(std::string(f.name) << ", " << std::string(type) << ", " << target << ": " << worst.error << " ulp at " << worst.at);
      CHECK(worst.error <= f.*bound);
    }
  }
  use_simd_target("");
}

TEST_CASE("SIMD maths: float against double, over all bit patterns") {
  // WEFT_TEST_ULP_STRIDE=1 takes every one of the 2^32 floats, a slice at a time (an hour or two).
  const char* wanted = std::getenv("WEFT_TEST_ULP_STRIDE");
  const uint64_t stride = wanted ? std::stoull(wanted) : sanitized ? 65537 : 1031;
  check_all<float>(near_points<float>(), &Function::bound_float);
  constexpr uint64_t slice = uint64_t{1} << 23;  // samples at a time
  for (uint64_t first = 0; first < uint64_t{1} << 32; first += slice * stride) {
    check_all<float>(bit_patterns<float>(first, stride, slice), &Function::bound_float);
  }
}

TEST_CASE("SIMD maths: double against long double") {
  check_all<double>(near_points<double>(), &Function::bound_double);
  const uint64_t samples = sanitized ? 20000 : 400000;
  check_all<double>(bit_patterns<double>(0, ~uint64_t{0} / samples, samples), &Function::bound_double);
}

template <class T>
void check_specials() {
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto one = [](const char* name, T x) {
    T y = 0;
    simd_apply(name, &y, &x, 1);
    return y;
  };
  for (const char* name :
       {"exp", "exp_nonpositive", "expm1", "log", "log1p", "tanh", "erf", "sigmoid", "softplus", "sin", "cos", "sqrt", "rsqrt"}) {
    CAPTURE(name);
    CHECK(std::isnan(one(name, nan)));
  }
  for (const char* name : {"expm1", "log1p", "tanh", "erf", "sin", "sqrt"}) {
    CAPTURE(name);
    CHECK(one(name, T(0)) == 0);
    CHECK(std::signbit(one(name, T(-0.0))));
    CHECK_FALSE(std::signbit(one(name, T(0))));
  }
  CHECK(one("exp", infinity) == infinity);
  CHECK(one("exp", -infinity) == 0);
  CHECK(one("exp_nonpositive", -infinity) == 0);
  CHECK(one("exp_nonpositive", T(-1e30)) == 0);
  CHECK(one("exp_nonpositive", sizeof(T) == 4 ? T(-87.31) : T(-708.31)) == 0);
  CHECK(one("exp_nonpositive", T(0)) == 1);
  CHECK(one("log", T(0)) == -infinity);
  CHECK(std::isnan(one("log", T(-1))));
  CHECK(one("log", infinity) == infinity);
  CHECK(one("log1p", T(-1)) == -infinity);
  CHECK(std::isnan(one("log1p", T(-1.5))));
  CHECK(one("tanh", -infinity) == -1);
  CHECK(one("erf", infinity) == 1);
  CHECK(std::isnan(one("sin", infinity)));
  CHECK(std::isnan(one("cos", -infinity)));
  CHECK(one("softplus", infinity) == infinity);
  CHECK(one("softplus", -infinity) == 0);
}

TEST_CASE("SIMD maths: zeros, infinities, NaN") {
  for (const std::string& target : simd_targets()) {
    CAPTURE(target);
    use_simd_target(target);
    check_specials<float>();
    check_specials<double>();
  }
  use_simd_target("");
}

template <class T>
void check_pow(double bound) {
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> a, b;
  for (T u : {T(0), T(-0.0), T(1), T(-1), T(0.5), T(-0.5), T(2), T(-2), T(3), T(-3), T(10), T(1e-30), T(1e30), T(1.0000001), infinity,
              -infinity, nan}) {
    for (T v : {T(0), T(-0.0), T(1), T(-1), T(0.5), T(-0.5), T(2), T(-2), T(3), T(-3), T(2.5), T(1e7), T(16777216), T(1e30), infinity,
                -infinity, nan}) {
      a.push_back(u);
      b.push_back(v);
    }
  }
  for (int i = 0; i < 4 * points; ++i) {
    a.push_back(static_cast<T>(std::exp(std::sin(i * 0.7) * 20)));
    b.push_back(static_cast<T>(std::cos(i * 1.3) * 8));
  }
  std::vector<T> y(a.size());
  simd_apply("pow", y.data(), a.data(), b.data(), static_cast<int64_t>(a.size()));
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const Wide exact = std::pow(Wide(a[i]), Wide(b[i]));
    const double error = ulp_error(y[i], exact);
    CAPTURE(a[i]);
    CAPTURE(b[i]);
    CAPTURE(y[i]);
    if (error > bound) CHECK(error <= bound);
    if (y[i] == 0 && std::signbit(y[i]) != std::signbit(exact)) CHECK(std::signbit(y[i]) == std::signbit(exact));
    worst = std::max(worst, error);
  }
  CHECK(worst <= bound);
}

TEST_CASE("SIMD maths: pow, with the C library's special cases") {
  for (const std::string& target : simd_targets()) {
    CAPTURE(target);
    use_simd_target(target);
    check_pow<float>(0.51);
    check_pow<double>(1);
  }
  use_simd_target("");
}

template <class T>
void check_vector_type() {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t n = 0; n <= 40; ++n) {  // every tail; exact-size buffers, so that the address sanitizer sees an overrun
    std::vector<T> x(static_cast<size_t>(n)), y(static_cast<size_t>(n)), b(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>((i * 7) % 11 - 4) / 2, b[i] = static_cast<T>((i * 5) % 7 - 3);
    simd_apply("copy", y.data(), x.data(), n);
    CHECK(y == x);
    simd_apply("formula", y.data(), x.data(), n);
    for (int64_t i = 0; i < n; ++i) CHECK(y[i] == (x[i] > 0 && x[i] < 2 ? 1 - x[i] * x[i] : T(0.5) * x[i] + 3));
    simd_apply("max", y.data(), x.data(), b.data(), n);
    for (int64_t i = 0; i < n; ++i) CHECK(y[i] == std::max(x[i], b[i]));
    simd_apply("min", y.data(), x.data(), b.data(), n);
    for (int64_t i = 0; i < n; ++i) CHECK(y[i] == std::min(x[i], b[i]));
    T total = 0;
    for (T v : x) total += v;  // exact: halves
    CHECK(simd_reduce("sum", x.data(), n) == total);
    if (n == 0) continue;
    CHECK(simd_reduce("max_of", x.data(), n) == *std::max_element(x.begin(), x.end()));
    CHECK(simd_reduce("min_of", x.data(), n) == *std::min_element(x.begin(), x.end()));
    x[static_cast<size_t>(n / 2)] = nan;
    CHECK(std::isnan(simd_reduce("max_of", x.data(), n)));
    CHECK(std::isnan(simd_reduce("min_of", x.data(), n)));
    for (bool first : {true, false}) {
      simd_apply("max", y.data(), first ? x.data() : b.data(), first ? b.data() : x.data(), n);
      CHECK(std::isnan(y[static_cast<size_t>(n / 2)]));
      simd_apply("min", y.data(), first ? x.data() : b.data(), first ? b.data() : x.data(), n);
      CHECK(std::isnan(y[static_cast<size_t>(n / 2)]));
    }
  }
}

TEST_CASE("Simd: loads, stores, masks, reductions, tails") {
  CHECK_THROWS_AS(simd_apply("nonsense", static_cast<float*>(nullptr), nullptr, 0), std::invalid_argument);
  for (const std::string& target : simd_targets()) {
    CAPTURE(target);
    use_simd_target(target);
    check_vector_type<float>();
    check_vector_type<double>();
  }
  use_simd_target("");
}

TEST_CASE("scalar maths has the vectors' names") {
  CHECK(weft::sigmoid(-1000.0f) == 0);
  CHECK(weft::sigmoid(0.0) == 0.5);
  CHECK(weft::softplus(1000.0) == 1000.0);
  CHECK(std::isnan(weft::softplus(std::nan(""))));
  CHECK(weft::select(true, 1, 2.5) == 1.0);
  CHECK(weft::max(2.0f, 3) == 3.0f);
  CHECK(std::isnan(weft::max(std::nan(""), 1.0)));
  CHECK(std::isnan(weft::min(1.0, std::nan(""))));
  CHECK(weft::pow(2.0f, 3) == 8.0f);
  CHECK(weft::rsqrt(4.0) == 0.5);
  CHECK(weft::mul_add(2.0, 3.0, 4.0) == 10.0);
  CHECK(weft::square(3.0f) + weft::abs(-1.0f) + weft::floor(1.5f) == 11.0f);
  CHECK(weft::is_nan(std::nanf("")));
}

}  // namespace
}  // namespace weft::cpu
