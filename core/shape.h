// Shape: the sizes of a tensor's axes, held inline (no allocation).
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "weft/core/error.h"

namespace weft {

/// Sizes of up to `max_rank` axes, outermost first. Sizes may be zero (empty tensors), rank may be zero (scalars).
class Shape {
 public:
  static constexpr int max_rank = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes) {
    for (int64_t size : sizes) push_back(size);
  }

  int rank() const { return rank_; }
  int64_t numel() const;
  /// Size of one axis; negative axes count from the end, an error beyond the rank.
  int64_t operator[](int axis) const { return sizes_[place(axis < 0 ? axis + rank_ : axis, axis)]; }
  int64_t& operator[](int axis) { return sizes_[place(axis < 0 ? axis + rank_ : axis, axis)]; }
  /// Size of the last axis but `i`: back(0) is the innermost.
  int64_t back(int i = 0) const { return sizes_[place(rank_ - 1 - i, -1 - i)]; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }

  void push_back(int64_t size);
  void insert(int axis, int64_t size);
  void erase(int axis);
  bool operator==(const Shape& other) const;
  /// For parameters that also take -1 for a size: `reshape(x, y.shape())`.
  operator std::vector<int64_t>() const { return {begin(), end()}; }

 private:
  // The index of a size if it is one. Inlined everywhere, so the message is made elsewhere.
  size_t place(int index, int asked) const {
    if (index < 0 || index >= rank_) [[unlikely]]
      fail_axis(asked);
    return static_cast<size_t>(index);
  }
  [[noreturn]] void fail_axis(int axis) const;

  std::array<int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

/// "[2, 3, 4]"; a scalar is "[]".
std::string to_string(const Shape& shape);
std::ostream& operator<<(std::ostream& out, const Shape& shape);

/// The shape that `a` and `b` broadcast to (trailing axes aligned, size 1 stretches); an error that names `op` otherwise.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

/// Does `from` broadcast to `to`, which keeps its shape?
bool broadcasts_to(const Shape& from, const Shape& to);

/// Maps -rank..rank-1 to 0..rank-1; an error that names `op` otherwise.
int normalize_axis(const char* op, int axis, int rank);
/// The same for an axis of a tensor of this shape, which the error shows.
int normalize_axis(const char* op, int axis, const Shape& shape);

inline std::string to_text(const Shape& shape) { return to_string(shape); }

}  // namespace weft
