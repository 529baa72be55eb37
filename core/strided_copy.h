// Copies that walk through strided axes (permute, repeat, broadcast_to): what to copy, for both devices.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "weft/core/shape.h"

namespace weft {

/// The axes of a copy y <- x in y's order, with x's strides; neighbours that are contiguous in both are merged, size 1 is dropped.
struct StridedCopy {
  static constexpr int max_rank = 2 * Shape::max_rank;  // repeat has two for each axis
  int rank = 0;
  std::array<int64_t, max_rank> size{}, stride{};

  void add(int64_t axis_size, int64_t axis_stride) {
    if (axis_size == 1) return;
    if (rank > 0 && stride[at(rank - 1)] == axis_stride * axis_size) {
      size[at(rank - 1)] *= axis_size;
      stride[at(rank - 1)] = axis_stride;
      return;
    }
    size[at(rank)] = axis_size;
    stride[at(rank++)] = axis_stride;
  }
  /// Takes an axis out.
  StridedCopy without(int axis) const {
    StridedCopy rest;
    for (int i = 0; i < rank; ++i) {
      if (i == axis) continue;
      rest.size[at(rest.rank)] = size[at(i)];
      rest.stride[at(rest.rank++)] = stride[at(i)];
    }
    return rest;
  }
  /// The same axes with y's strides.
  StridedCopy in_y() const {
    StridedCopy dense = *this;
    for (int64_t axis = rank - 1, run = 1; axis >= 0; --axis) {
      dense.stride[static_cast<size_t>(axis)] = run;
      run *= size[static_cast<size_t>(axis)];
    }
    return dense;
  }
  int64_t count() const {
    int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= size[at(i)];
    return product;
  }
  static size_t at(int axis) { return static_cast<size_t>(axis); }
};

inline std::array<int64_t, Shape::max_rank> strides_of(const Shape& shape) {
  std::array<int64_t, Shape::max_rank> strides{};
  int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[static_cast<size_t>(axis)] = stride;
    stride *= shape[axis];
  }
  return strides;
}

/// y axis i is x axis axes[i].
inline StridedCopy permuted_copy(const Shape& y, const Shape& x, std::span<const int> axes) {
  const auto strides = strides_of(x);
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) copy.add(y[axis], strides[static_cast<size_t>(axes[static_cast<size_t>(axis)])]);
  return copy;
}

inline StridedCopy broadcast_copy(const Shape& y, const Shape& x) {
  const auto strides = strides_of(x);
  const int added = y.rank() - x.rank();
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) {
    const bool stretched = axis < added || (x[axis - added] == 1 && y[axis] != 1);
    copy.add(y[axis], stretched ? 0 : strides[static_cast<size_t>(axis - added)]);
  }
  return copy;
}

/// y, which is not empty, holds x again and again: y axis i is the pair (count, x axis i).
inline StridedCopy repeated_copy(const Shape& y, const Shape& x) {
  const auto strides = strides_of(x);
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) {
    copy.add(y[axis] / x[axis], 0);
    copy.add(x[axis], strides[static_cast<size_t>(axis)]);
  }
  return copy;
}

}  // namespace weft
