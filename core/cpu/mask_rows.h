// Masks that broadcast to a tensor, row by row.
#pragma once

#include <array>
#include <cstdint>

#include "weft/core/tensor.h"

namespace weft::cpu {

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
