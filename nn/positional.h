// Positions that are added to the tokens or to the scores; rotary positions are in rotary.h.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "weft/autograd/ops.h"
#include "weft/nn/init.h"

namespace weft {

/// How a model tells positions apart.
enum class Positions {
  /// A trained vector for each position up to the longest.
  learned,
  /// Fixed waves added to the tokens; any length.
  sinusoidal,
  /// q and k turned by their position in every layer; any length.
  rotary,
  /// A penalty on the scores that grows with the distance; any length.
  alibi,
  none,
};
/// What they are called in options.
const std::vector<std::pair<Positions, std::string>>& position_kinds();

struct AbsolutePositionsOptions {
  int64_t max_len = 0;
  int64_t dim = 0;
  /// Rows are drawn from N(0, std^2).
  double std = 0.02;
};

/// A learned vector for each position.
struct AbsolutePositions {
  Tensor weight;  // [max_len, dim]

  AbsolutePositions() = default;
  explicit AbsolutePositions(const AbsolutePositionsOptions& options);

  /// Positions offset .. offset + n - 1 -> [n, dim].
  Tensor operator()(int64_t n, int64_t offset = 0, Location at = Location::current()) const;
  /// Given positions int64 [...] -> [..., dim]: rows that start at different places.
  Tensor at_positions(const Tensor& positions, Location at = Location::current()) const { return embedding(weight, positions, at); }

  void visit(auto&& f) { f("weight", weight); }
};

/// Fixed sinusoids (Vaswani et al. 2017): [n, dim] from position `offset` on, with angle a_i = position * base^(-2i / dim). `split`: all
/// sines, then all cosines; otherwise sin a_0, cos a_0, sin a_1, ...
Tensor sinusoidal_positions(int64_t n, int64_t dim, int64_t offset = 0, double base = 10000, bool split = true, TensorOptions options = {});

/// ALiBi (Press et al. 2022): the slope of each head, a geometric sequence; float32 [H].
Tensor alibi_slopes(int64_t heads);
/// bias[h, i, j] = -slope[h] * |i + M - N - j|: [H, N, M], the last query aligned with the last key.
Tensor alibi_bias(const Tensor& slopes, int64_t n, int64_t m);

}  // namespace weft
