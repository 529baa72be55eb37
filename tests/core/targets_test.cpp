// The same kernels on every instruction set of this machine: masks, uniforms, conversions and copies to the bit, maths to rounding.
#include <doctest/doctest.h>

#include <cmath>

#include "core/simd_apply.h"
#include "weft/core/kernels.h"

TEST_SUITE_BEGIN("host");

using namespace weft;

namespace {

class Target {
 public:
  explicit Target(const std::string& name) { cpu::use_simd_target(name); }
  ~Target() { cpu::use_simd_target(""); }
};

struct Result {
  std::string name;
  bool exact;
  Tensor value;
};

// Odd sizes throughout, so that tails and repeated rows are used.
std::vector<Result> run(DType dtype) {
  const TensorOptions options{.dtype = dtype};
  const auto uniform = [&](const Shape& shape, double low, double high, uint64_t stream) {
    Tensor x = empty(shape, options);
    cpu::fill_uniform(x, low, high, RandomKey{1, stream});
    return x;
  };
  const Tensor x = uniform({33, 67}, -3, 3, 0), row = uniform({67}, 0.5, 2, 1), column = uniform({33, 1}, 0.5, 2, 2),
               dy = uniform({33, 67}, -1, 1, 3);
  std::vector<Result> results;
  const auto add = [&](const std::string& name, bool exact, const Shape& shape, DType type, const auto& kernel) {
    Tensor y = empty(shape, {.dtype = type});
    kernel(y);
    results.push_back({name, exact, y});
  };
  const Shape full_shape = x.shape();
  add("uniform", true, full_shape, dtype, [&](Tensor& y) { cpu::fill_uniform(y, -1.7, 2.9, RandomKey{5, 6}); });
  add("normal", false, full_shape, dtype, [&](Tensor& y) { cpu::fill_normal(y, 1, 2, RandomKey{5, 6}); });
  add("integers", true, full_shape, DType::int64, [&](Tensor& y) { cpu::fill_integers(y, 12345, RandomKey{5, 6}); });
  add("keep_mask", true, full_shape, DType::boolean, [&](Tensor& y) { cpu::fill_keep_mask(y, 0.3, RandomKey{5, 6}); });
  add("dropout", true, full_shape, dtype, [&](Tensor& y) { cpu::dropout(y, x, 0.3, RandomKey{5, 6}); });
  add("float16", true, full_shape, DType::float16, [&](Tensor& y) { cpu::convert(y, x); });
  add("int64", true, full_shape, DType::int64, [&](Tensor& y) { cpu::convert(y, x); });
  add("add row", true, full_shape, dtype, [&](Tensor& y) { cpu::add(y, x, row); });
  add("mul column", true, full_shape, dtype, [&](Tensor& y) { cpu::mul(y, column, x); });
  add("less", true, full_shape, DType::boolean, [&](Tensor& y) { cpu::less(y, x, row); });
  add("relu", true, full_shape, dtype, [&](Tensor& y) { cpu::relu(y, x); });
  add("pow", false, full_shape, dtype, [&](Tensor& y) { cpu::pow(y, row, column); });
  Tensor mask = empty({67}, {.dtype = DType::boolean});
  cpu::fill_keep_mask(mask, 0.5, RandomKey{7, 8});
  add("where", true, full_shape, dtype, [&](Tensor& y) { cpu::where(y, mask, x, column); });
#define UNARY(name, ...)                                                     \
  add(#name, false, full_shape, dtype, [&](Tensor& y) { cpu::name(y, x); }); \
  add(#name "_backward", false, full_shape, dtype, [&](Tensor& dx) { cpu::name##_backward(dx, dy, x, results.back().value); });
#include "weft/core/elementwise.def"
#undef UNARY
  add("gated", false, {33, 33}, dtype, [&](Tensor& y) {
    Tensor h = empty({33, 66}, options);
    cpu::fill_uniform(h, -3, 3, RandomKey{1, 4});
    cpu::gated_activation(y, h, Gate::gelu);
  });
  return results;
}

std::vector<double> values(const Tensor& x) {
  Tensor y = empty(x.shape(), {.dtype = DType::float64});
  cpu::convert(y, x);
  return y.to_vector<double>();
}

}  // namespace

TEST_CASE("targets: every instruction set gives the same numbers") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const auto best = run(dtype);
    for (const std::string& name : cpu::simd_targets()) {
      const Target target(name);
      const auto got = run(dtype);
      REQUIRE(got.size() == best.size());
      for (size_t k = 0; k < got.size(); ++k) {
        INFO(name, ": ", got[k].name, " in ", to_text(dtype));
        const double tolerance = got[k].exact ? 0 : dtype == DType::float32 ? 4e-6 : 1e-14;
        const auto x = values(got[k].value), y = values(best[k].value);
        size_t different = 0;
        for (size_t i = 0; i < x.size(); ++i) {
          const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
          different += same || std::fabs(x[i] - y[i]) <= tolerance * (1 + std::fabs(y[i])) ? 0 : 1;
        }
        CHECK(different == 0);
      }
    }
  }
}
