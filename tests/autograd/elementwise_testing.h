// What the tests of elementwise ops share: samples, expected values, shapes that broadcast.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/functors.h"

namespace weft::testing {

inline constexpr double inf = std::numeric_limits<double>::infinity();
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline const TensorOptions f64{.dtype = DType::float64};

inline Tensor sample(const Shape& shape, double low, double high, DType dtype = DType::float64) {
  static Generator generator(7);
  return rand(shape, low, high, {.dtype = dtype}, &generator);
}

inline std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }

// y[i] must be expected(i), within a few units of the last place of the dtype.
inline void check_values(const Tensor& y, const std::function<double(size_t)>& expected) {
  const double tolerance = y.dtype() == DType::float64 ? 2e-15 : 6e-7;
  const auto got = values(y);
  size_t wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = expected(i);
    const bool same = got[i] == want || (std::isnan(got[i]) && std::isnan(want));
    if (same || std::fabs(got[i] - want) <= tolerance * (1 + std::fabs(want))) continue;
    if (wrong++ == 0) MESSAGE("element ", i, " is ", got[i], ", expected ", want);
  }
  CHECK(wrong == 0);
}

// Rounded to a grid: two grids of different offset have no ties, and no kink is near.
inline Tensor on_grid(const Tensor& x, double offset) {
  auto in = x.to_vector<double>();
  for (double& value : in) value = std::round(value * 10) / 10 + offset;
  return from_vector(in, x.shape());
}

// Element `flat` of the shape `to` in a tensor that broadcasts to it.
inline size_t source_of(size_t flat, const Shape& to, const Shape& from) {
  int64_t rest = static_cast<int64_t>(flat), offset = 0, stride = 1;
  for (int i = 0; i < to.rank(); ++i) {
    const int64_t index = rest % to.back(i);
    rest /= to.back(i);
    if (i >= from.rank()) continue;
    offset += from.back(i) == 1 ? 0 : index * stride;
    stride *= from.back(i);
  }
  return static_cast<size_t>(offset);
}

// Scalars, empty tensors, odd sizes; rows and columns repeated, short, long, around the block size, inside and outside.
inline const std::vector<std::pair<Shape, Shape>> broadcasts = {
    {{}, {}},
    {{1}, {}},
    {{}, {7}},
    {{33}, {33}},
    {{33}, {1}},
    {{3, 7}, {7}},
    {{3, 7}, {3, 1}},
    {{3, 1}, {1, 7}},
    {{1, 7}, {3, 1}},
    {{2, 3, 5}, {3, 1}},
    {{2, 1, 5}, {1, 3, 1}},
    {{0}, {1}},
    {{0, 3}, {3}},
    {{2, 0}, {2, 1}},
    {{4, 300}, {300}},
    {{4, 300}, {4, 1}},
    {{1000, 3}, {3}},
    {{700, 3}, {700, 1}},
    {{5, 1, 1030}, {5, 2, 1}},
    {{3, 1030}, {1030}},
    {{2, 1, 3, 1, 2}, {5, 1, 4, 1}},
    {{40000}, {40000}},
    {{40, 1000}, {}},
    {{20, 1, 50}, {40, 1}},
};

}  // namespace weft::testing
