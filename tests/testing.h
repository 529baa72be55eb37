// What several test files need: random tensors, thread counts, comparison with a tolerance, and checks of error messages.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/device.h"

namespace weft::testing {

/// float64 normal numbers from a seed of their own.
inline Tensor normal(const Shape& shape, uint64_t seed = 1) {
  Generator generator(seed);
  return randn(shape, {.dtype = DType::float64}, &generator);
}

/// Normal numbers from the default generator.
inline Tensor random(const Shape& shape, DType dtype = DType::float64) { return randn(shape, {.dtype = dtype}); }

/// Where everything takes many times as long, under sanitizers and on the emulated GPU, tests run at reduced sizes.
inline bool is_slow() {
#ifdef WEFT_SANITIZED
  return true;
#elif defined(WEFT_CUDA_EMULATED)
  return default_device().is_cuda();
#else
  return false;
#endif
}

/// While it lives, kernels use this many threads.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(num_threads()) { set_num_threads(threads); }
  ~ThreadCount() { set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

/// Same shape and dtype, and |a - b| <= tolerance * (1 + |b|) everywhere; NaN equals NaN, infinities equal themselves.
inline bool close(const Tensor& a, const Tensor& b, double tolerance = 1e-12) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) {
    MESSAGE("shapes or dtypes differ: ", describe(a), " and ", describe(b));
    return false;
  }
  const std::vector<double> x = to(detach(a), DType::float64).to_vector<double>(), y = to(detach(b), DType::float64).to_vector<double>();
  for (size_t i = 0; i < x.size(); ++i) {
    const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i])) || std::fabs(x[i] - y[i]) <= tolerance * (1 + std::fabs(y[i]));
    if (!same) {
      MESSAGE("element ", i, " of ", describe(a), ": ", x[i], " and ", y[i]);
      return false;
    }
  }
  return true;
}

/// The elements of a tensor on the host, written back to its device when this goes: on_host<bool>(mask)[3] = true.
template <class T>
class OnHost {
 public:
  explicit OnHost(const Tensor& x) : x_(x), host_(to_host(detach(x))) {}
  ~OnHost() {
    if (x_.device().is_cuda()) x_.copy_from(host_);
  }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;
  T* data() { return host_.data<T>(); }
  operator T*() { return data(); }

 private:
  Tensor x_, host_;
};
template <class T>
OnHost<T> on_host(const Tensor& x) {
  return OnHost<T>(x);
}

/// The message of the weft::Error that f throws; empty if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE("\"", text, "\" does not hold \"", part, "\"");
  return false;
}

}  // namespace weft::testing
