// CUDA kernels against the CPU's: how far may a result be off?
//
// The reference is the CPU in float64, from inputs as the dtype under test holds them. What the CPU itself is off in float32, rounded to
// the dtype, is the measure: a CUDA kernel may be off twice as much, plus a few units in the last place of the largest element.
#pragma once

#include <functional>
#include <limits>

#include "testing.h"
#include "weft/core/kernels.h"

namespace weft::testing {

inline const std::vector<DType> compute_dtypes = {DType::float64, DType::float32, DType::float16, DType::bfloat16};

/// Computes outputs from inputs of one device and one floating-point dtype: allocate with `x.options()`, launch with WEFT_LAUNCH.
using KernelCall = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return 0x1p-53;
    case DType::float32:
      return 0x1p-24;
    case DType::float16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

/// The floating-point tensors among xs in another dtype; int64 and bool stay.
inline std::vector<Tensor> converted(const std::vector<Tensor>& xs, DType dtype) {
  std::vector<Tensor> ys;
  for (const Tensor& x : xs) ys.push_back(x.defined() && is_float(x.dtype()) ? to(x, dtype) : x);
  return ys;
}

inline std::vector<Tensor> moved(const std::vector<Tensor>& xs, Device device) {
  std::vector<Tensor> ys;
  for (const Tensor& x : xs) ys.push_back(x.defined() ? to(x, device) : x);
  return ys;
}

/// Largest absolute difference; infinity where one is NaN or infinite and the other is not the same.
inline double distance(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = to(to(a, Device::cpu()), DType::float64).to_vector<double>();
  const std::vector<double> y = to(to(b, Device::cpu()), DType::float64).to_vector<double>();
  double largest = x.size() == y.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    if (x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]))) continue;
    const double difference = std::fabs(x[i] - y[i]);
    largest = std::max(largest, std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity());
  }
  return largest;
}

/// The index of the element where they differ most, or where one is NaN and the other is not.
inline int64_t furthest(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = to(to(a, Device::cpu()), DType::float64).to_vector<double>();
  const std::vector<double> y = to(to(b, Device::cpu()), DType::float64).to_vector<double>();
  const auto difference = [&](size_t i) {
    return std::isnan(x[i]) != std::isnan(y[i]) ? std::numeric_limits<double>::infinity() : x[i] == y[i] ? 0.0 : std::fabs(x[i] - y[i]);
  };
  size_t at = 0;
  for (size_t i = 1; i < x.size(); ++i) {
    if (difference(i) > difference(at)) at = i;
  }
  return static_cast<int64_t>(at);
}

inline double largest_finite(const Tensor& a) {
  double largest = 0;
  for (double x : to(to(a, Device::cpu()), DType::float64).to_vector<double>()) {
    if (std::isfinite(x)) largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

/// Runs `call` on CUDA in every dtype of `dtypes` and compares every output with the CPU's. `inputs` are on the CPU, floating-point ones in
/// float64; undefined ones are passed on. `units`: units in the last place that are allowed on top.
inline void check_on_cuda(const std::vector<Tensor>& inputs, const KernelCall& call, const std::vector<DType>& dtypes = compute_dtypes,
                          double units = 4) {
  for (DType dtype : dtypes) {
    const std::vector<Tensor> own = converted(inputs, dtype);
    const std::vector<Tensor> expected = call(converted(own, DType::float64));
    const std::vector<Tensor> same = dtype == DType::float64 ? expected : call(converted(own, DType::float32));
    const std::vector<Tensor> got = moved(call(moved(own, Device::cuda())), Device::cpu());
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      INFO("output ", i, " in ", to_text(dtype));
      REQUIRE(got[i].shape() == expected[i].shape());
      if (!is_float(expected[i].dtype())) {
        CHECK(distance(got[i], expected[i]) == 0);
        continue;
      }
      INFO(format("the largest difference is at element {}; NaN: nobody wrote it, or a barrier is missing", furthest(got[i], expected[i])));
      const double rounding = units * unit_roundoff(got[i].dtype()) * largest_finite(expected[i]);
      CHECK(distance(got[i], expected[i]) <= 2 * distance(to(same[i], got[i].dtype()), expected[i]) + rounding);
    }
  }
}

}  // namespace weft::testing
