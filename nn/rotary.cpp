#include "weft/nn/rotary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "weft/core/kernels.h"

namespace weft {
namespace {

// Every step is rounded to T, in the order of the original package: e = 2i / R, w = 1 / base^e, a = p * w.
template <class T>
std::vector<T> frequencies_of(int64_t dim, double base) {
  std::vector<T> frequencies;
  for (int64_t i = 0; i < dim; i += 2)
    frequencies.push_back(T(1) / std::pow(static_cast<T>(base), static_cast<T>(i) / static_cast<T>(dim)));
  return frequencies;
}

template <class T>
RotaryTable make_table(int64_t positions, const std::vector<T>& frequencies, Device device) {
  const int64_t pairs = static_cast<int64_t>(frequencies.size());
  std::vector<T> cosines, sines;
  for (int64_t p = 0; p < positions; ++p) {
    for (T frequency : frequencies) {
      const T angle = static_cast<T>(p) * frequency;
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
  }
  return {from_vector(cosines, {positions, pairs}, device), from_vector(sines, {positions, pairs}, device)};
}

DType table_dtype(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

}  // namespace

RotaryTable rotary_table(int64_t positions, int64_t dim, double base, TensorOptions options) {
  WEFT_CHECK(dim >= 2 && dim % 2 == 0, "rotary: the rotated width must be even and at least 2, got {}", dim);
  WEFT_CHECK(std::isfinite(base) && base > 0, "rotary: the base must be positive and finite, got {}", base);
  using Key = std::tuple<int64_t, double, DType, std::string>;
  static std::mutex mutex;
  static std::map<Key, RotaryTable> tables;

  const std::lock_guard lock(mutex);
  const DType dtype = table_dtype(options.dtype);
  RotaryTable& table = tables[Key(dim, base, dtype, to_string(options.place()))];
  const int64_t rows = table.cos.defined() ? table.cos.size(0) : 0;
  if (rows < std::max<int64_t>(positions, 1)) {
    dispatch_float(dtype, "rotary_table", [&]<class T>() {
      table = make_table(std::max<int64_t>({1, positions, 2 * rows}), frequencies_of<T>(dim, base), options.place());
    });
  }
  return table;
}

RotaryTable rotary_table(int64_t positions, const Tensor& frequencies) {
  WEFT_CHECK(frequencies.defined() && frequencies.rank() == 1, "rotary_table: expected frequencies [R / 2], got {}", frequencies);
  return dispatch_float(frequencies.dtype(), "rotary_table",
                        [&]<class T>() { return make_table(positions, frequencies.to_vector<T>(), frequencies.device()); });
}

Tensor rotary(const Tensor& x, RotaryOptions options, Location at) {
  WEFT_CHECK(x.rank() >= 2, "rotary: expected at least 2 dimensions, got {}", x);
  const int axis = normalize_axis("rotary", options.axis, x.shape());
  const int64_t dim = options.dim == 0 ? x.size(-1) : options.dim;
  WEFT_CHECK(options.offset >= 0, "rotary: the offset must not be negative, got {}", options.offset);
  return rotary(x, rotary_table(options.offset + x.size(axis), dim, options.base, x.options()), options, at);
}

Tensor rotary(const Tensor& x, const RotaryTable& table, RotaryOptions options, Location at) {
  WEFT_CHECK(x.rank() >= 2, "rotary: expected at least 2 dimensions, got {}", x);
  const int axis = normalize_axis("rotary", options.axis, x.shape());
  WEFT_CHECK(axis < x.rank() - 1, "rotary: the sequence axis {} of {} is the axis of features", options.axis, x);
  WEFT_CHECK(table.cos.rank() == 2 && table.cos.shape() == table.sin.shape(),
             "rotary: the table must be [positions, pairs] twice, got {} and {}", table.cos, table.sin);
  WEFT_CHECK(table.cos.dtype() == table_dtype(x.dtype()) && table.sin.dtype() == table.cos.dtype() && table.cos.device() == x.device(),
             "rotary: x is {}, the table {}", x, table.cos);
  WEFT_CHECK(2 * table.cos.size(1) <= x.size(-1), "rotary: the table rotates {} features, x is {}", 2 * table.cos.size(1), x);
  WEFT_CHECK(options.offset >= 0 && options.offset + x.size(axis) <= table.cos.size(0),
             "rotary: positions {} to {} are beyond the table's {} rows", options.offset, options.offset + x.size(axis), table.cos.size(0));

  const auto rotate = [=, cos = table.cos, sin = table.sin, first = options.offset, split = options.half_split](const Tensor& in,
                                                                                                                bool inverse) {
    Tensor out = empty_like(in);
    WEFT_LAUNCH(in, rotary(out, in, cos, sin, axis, first, split, inverse));
    return out;
  };
  return record(
      "rotary", rotate(x, false), {x}, [rotate](const Tensor& dy) -> Grads { return {rotate(dy, true)}; }, at);
}

}  // namespace weft
