// Rotary position embedding (RoPE): turns pairs of features by an angle proportional to the position, so that q . k depends on the
// distance of the two positions only. Su et al. 2021, RoFormer.
//
//   y[2i]   = x[2i] cos a - x[2i+1] sin a                       a = position * base^(-2i / R), i = 0 .. R/2 - 1
//   y[2i+1] = x[2i] sin a + x[2i+1] cos a
//   backward: the rotation by -a
//
// With half_split the pairs are (i, i + R/2) instead of (2i, 2i+1).
#pragma once

#include "weft/autograd/graph.h"

namespace weft {

/// cos and sin of the angles, [positions, R / 2].
struct RotaryTable {
  Tensor cos, sin;
};

/// The table of `positions` rows for rotated width `dim`, computed in the dtype given (float32 for the half types). Tables are kept, one
/// for each (dim, base, dtype, device), and grow on demand, so the result may have more rows than asked for.
RotaryTable rotary_table(int64_t positions, int64_t dim, double base = 10000, TensorOptions options = {});
/// A table of the angles position * frequencies[i]; frequencies [R / 2].
RotaryTable rotary_table(int64_t positions, const Tensor& frequencies);

struct RotaryOptions {
  /// Axis of x that is the sequence: 1 for [B, N, H, D], 2 for [B, H, N, D].
  int axis = 1;
  /// Position of the first element: the length of the cache when decoding.
  int64_t offset = 0;
  /// Rotated width R: the first `dim` features (0: all); the rest pass through.
  int64_t dim = 0;
  double base = 10000;
  bool half_split = false;
};

/// Rotates the last axis of x.
Tensor rotary(const Tensor& x, RotaryOptions options = {}, Location at = Location::current());
/// The same with a table of one's own; `dim` and `base` are taken from it.
Tensor rotary(const Tensor& x, const RotaryTable& table, RotaryOptions options = {}, Location at = Location::current());

}  // namespace weft
