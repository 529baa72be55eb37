#include "weft/nn/positional.h"

#include <cmath>

namespace weft {

const std::vector<std::pair<Positions, std::string>>& position_kinds() {
  static const std::vector<std::pair<Positions, std::string>> kinds = {{Positions::learned, "learned"},
                                                                       {Positions::sinusoidal, "sinusoidal"},
                                                                       {Positions::rotary, "rotary"},
                                                                       {Positions::alibi, "alibi"},
                                                                       {Positions::none, "none"}};
  return kinds;
}

AbsolutePositions::AbsolutePositions(const AbsolutePositionsOptions& options) {
  WEFT_CHECK(options.max_len >= 1 && options.dim >= 1, "AbsolutePositions: max_len and dim must be at least 1, got {} and {}",
             options.max_len, options.dim);
  weight = init::normal({options.max_len, options.dim}, options.std);
}

Tensor AbsolutePositions::operator()(int64_t n, int64_t offset, Location at) const {
  WEFT_CHECK(n >= 0 && offset >= 0 && offset + n <= weight.size(0),
             "AbsolutePositions: positions {} to {} are beyond the longest sequence, {}; build the model with a larger max_len", offset,
             offset + n, weight.size(0));
  return slice(weight, 0, offset, offset + n, 1, at);
}

Tensor sinusoidal_positions(int64_t n, int64_t dim, int64_t offset, double base, bool split, TensorOptions options) {
  WEFT_CHECK(dim >= 2 && dim % 2 == 0, "sinusoidal_positions: dim must be even and at least 2, got {}", dim);
  WEFT_CHECK(n >= 0 && offset >= 0, "sinusoidal_positions: n and offset must not be negative, got {} and {}", n, offset);
  return dispatch_float(options.dtype, "sinusoidal_positions", [&]<class T>() {
    std::vector<T> values(static_cast<size_t>(n * dim));
    const int64_t pairs = dim / 2;
    for (int64_t i = 0; i < pairs; ++i) {
      const T frequency = T(1) / std::pow(static_cast<T>(base), static_cast<T>(2 * i) / static_cast<T>(dim));
      for (int64_t p = 0; p < n; ++p) {
        const T angle = static_cast<T>(offset + p) * frequency;
        values[static_cast<size_t>(p * dim + (split ? i : 2 * i))] = std::sin(angle);
        values[static_cast<size_t>(p * dim + (split ? pairs + i : 2 * i + 1))] = std::cos(angle);
      }
    }
    return from_vector(values, {n, dim}, options.place());
  });
}

Tensor alibi_slopes(int64_t heads) {
  WEFT_CHECK(heads >= 1, "alibi_slopes: heads must be at least 1, got {}", heads);
  int64_t power = 1;  // largest power of two <= heads
  while (2 * power <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t h = 0; h < heads; ++h) {
    // Heads beyond the power of two take every other slope of the sequence for twice as many heads.
    const double exponent = h < power ? -8.0 * static_cast<double>(h + 1) / static_cast<double>(power)
                                      : -8.0 * static_cast<double>(2 * (h - power) + 1) / static_cast<double>(2 * power);
    slopes.push_back(static_cast<float>(std::exp2(exponent)));
  }
  return from_vector(slopes, {heads});
}

Tensor alibi_bias(const Tensor& slopes, int64_t n, int64_t m) {
  WEFT_CHECK(slopes.defined() && slopes.rank() == 1, "alibi_bias: expected slopes [H], got {}", slopes);
  WEFT_CHECK(n >= 0 && m >= 0, "alibi_bias: the lengths must not be negative, got {} and {}", n, m);
  return dispatch_float(slopes.dtype(), "alibi_bias", [&]<class T>() {
    const std::vector<T> slope = slopes.to_vector<T>();
    std::vector<T> values;
    values.reserve(slope.size() * static_cast<size_t>(n * m));
    for (T s : slope) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < m; ++j) values.push_back(-s * static_cast<T>(std::abs(i + m - n - j)));
      }
    }
    return from_vector(values, {slopes.size(0), n, m}, slopes.device());
  });
}

}  // namespace weft
