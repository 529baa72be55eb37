// Dense tensors seen along axes: what reductions, softmax and norms loop over, on both devices.
#pragma once

#include <array>
#include <cstdint>

#include "weft/core/kernels.h"

namespace weft {

/// One axis of a dense tensor: [outer, length, inner].
struct AxisView {
  int64_t outer = 1, length = 1, inner = 1;
};

inline AxisView view_along(const Shape& shape, int axis) {
  AxisView view{.length = shape[axis]};
  for (int i = 0; i < axis; ++i) view.outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) view.inner *= shape[i];
  return view;
}

/// The axes of a shape as groups that are alternately kept and reduced: neighbours of a kind are one, axes of size 1 vanish.
struct AxisGroups {
  struct Group {
    int64_t size;
    bool reduced;
  };
  std::array<Group, Shape::max_rank> groups{};
  int count = 0;

  AxisGroups(const Shape& shape, AxisSet axes) {
    for (int i = 0; i < shape.rank(); ++i) push_back({shape[i], axes.has(i)});
  }
  void push_back(Group group) {
    if (group.size == 1) return;
    if (count > 0 && (*this)[count - 1].reduced == group.reduced) {
      (*this)[count - 1].size *= group.size;
    } else {
      (*this)[count++] = group;
    }
  }
  Group& operator[](int i) { return groups[static_cast<size_t>(i)]; }
  const Group& operator[](int i) const { return groups[static_cast<size_t>(i)]; }

  /// The longest reduced group, or -1.
  int longest_reduced() const {
    int longest = -1;
    for (int i = 0; i < count; ++i) {
      if ((*this)[i].reduced && (longest < 0 || (*this)[i].size > (*this)[longest].size)) longest = i;
    }
    return longest;
  }
  AxisView view(int group) const {
    AxisView view{.length = (*this)[group].size};
    for (int i = 0; i < group; ++i) view.outer *= (*this)[i].size;
    for (int i = group + 1; i < count; ++i) view.inner *= (*this)[i].size;
    return view;
  }
  /// What is left when a group has been reduced.
  void remove(int group) {
    const AxisGroups before = *this;
    count = 0;
    for (int i = 0; i < before.count; ++i) {
      if (i != group) push_back(before[i]);
    }
  }
};

}  // namespace weft
