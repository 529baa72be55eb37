#include "weft/core/shape.h"

#include <algorithm>
#include <ostream>

namespace weft {

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t size : *this) n *= size;
  return n;
}

void Shape::push_back(int64_t size) { insert(rank_, size); }

void Shape::insert(int axis, int64_t size) {
  WEFT_CHECK(rank_ < max_rank, "shape: at most {} dimensions are supported, got {} and one more of size {}", max_rank, *this, size);
  WEFT_CHECK(size >= 0, "shape: sizes must not be negative, got {}", size);
  WEFT_CHECK(axis >= -rank_ - 1 && axis <= rank_, "shape: an axis cannot be inserted into {} at {}", *this, axis);
  const int at = axis < 0 ? axis + rank_ + 1 : axis;  // where it stands afterwards
  std::copy_backward(begin() + at, end(), sizes_.data() + rank_ + 1);
  sizes_[static_cast<size_t>(at)] = size;
  ++rank_;
}

void Shape::erase(int axis) {
  const size_t at = place(axis < 0 ? axis + rank_ : axis, axis);
  std::copy(begin() + at + 1, end(), sizes_.data() + at);
  --rank_;
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

void Shape::fail_axis(int axis) const { fail("shape: axis {} is out of range for {}", axis, *this); }

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int axis = 0; axis < shape.rank(); ++axis) text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << to_string(shape); }

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  Shape result;
  const int rank = std::max(a.rank(), b.rank());
  for (int axis = 0; axis < rank; ++axis) {
    const int from_end = rank - 1 - axis;
    const int64_t size_a = from_end < a.rank() ? a.back(from_end) : 1;
    const int64_t size_b = from_end < b.rank() ? b.back(from_end) : 1;
    WEFT_CHECK(size_a == size_b || size_a == 1 || size_b == 1,
               "{}: shapes {} and {} do not broadcast: sizes {} and {} differ and neither is 1", op, a, b, size_a, size_b);
    result.push_back(size_a == 1 ? size_b : size_a);
  }
  return result;
}

bool broadcasts_to(const Shape& from, const Shape& to) {
  bool fits = from.rank() <= to.rank();
  for (int i = 0; fits && i < from.rank(); ++i) fits = from.back(i) == to.back(i) || from.back(i) == 1;
  return fits;
}

int normalize_axis(const char* op, int axis, int rank) {
  WEFT_CHECK(axis >= -rank && axis < rank, "{}: axis {} is out of range for a tensor of {} dimensions", op, axis, rank);
  return axis < 0 ? axis + rank : axis;
}

int normalize_axis(const char* op, int axis, const Shape& shape) {
  WEFT_CHECK(axis >= -shape.rank() && axis < shape.rank(), "{}: axis {} is out of range for a tensor of shape {}", op, axis, shape);
  return axis < 0 ? axis + shape.rank() : axis;
}

}  // namespace weft
