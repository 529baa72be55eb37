// Dense tensors seen along axes: what reductions, softmax and norms loop over.
#pragma once

#include <array>
#include <cstdint>

#include "weft/core/kernels.h"

namespace weft::cpu {

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

/// Finds the row of a mask that belongs to a row (along the last axis) of a tensor that it broadcasts to.
class MaskRows {
 public:
  /// `mask` may be undefined.
  MaskRows(const Tensor& mask, const Shape& shape) {
    if (!mask.defined()) return;
    data_ = mask.data<bool>();
    const auto mask_size = [&](int axis) {  // axis of `shape`
      const int own = axis - (shape.rank() - mask.rank());
      return own < 0 ? 1 : mask.shape()[own];
    };
    per_element_ = mask_size(shape.rank() - 1) > 1 || shape.back() == 1;
    int64_t stride = mask_size(shape.rank() - 1);
    for (int i = shape.rank() - 2; i >= 0; --i) {
      const int64_t step = mask_size(i) == 1 ? 0 : stride;
      stride *= mask_size(i);
      if (shape[i] == 1) continue;
      if (count_ > 0 && step == axes_[count_ - 1].step * axes_[count_ - 1].size) {
        axes_[count_ - 1].size *= shape[i];  // runs on from the axis behind it
      } else {
        axes_[count_++] = {shape[i], step};
      }
    }
  }

  bool defined() const { return data_ != nullptr; }
  /// False: one value stands for the whole row.
  bool per_element() const { return per_element_; }
  const bool* row(int64_t index) const {
    int64_t offset = 0;
    for (size_t i = 0; i < count_; ++i) {
      offset += (count_ == 1 ? index : index % axes_[i].size) * axes_[i].step;
      index /= axes_[i].size;
    }
    return data_ + offset;
  }

 private:
  struct Axis {
    int64_t size, step;
  };
  const bool* data_ = nullptr;
  bool per_element_ = true;
  std::array<Axis, Shape::max_rank> axes_{};  // innermost first
  size_t count_ = 0;
};

}  // namespace weft::cpu
