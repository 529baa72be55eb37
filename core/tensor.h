// Tensor: a cheap handle on shared storage with a runtime shape, dtype and device, and an optional place in the autograd graph.
//
// Always dense and row-major, so no kernel handles strides. What can share storage does, and is then seen by changes in place: views
// (reshape, flatten, squeeze, unsqueeze, viewed_as), whole rows of the first axis (rows; slice, split and select there), a permute that
// only moves axes of size 1, and ops that have nothing to do (`to` the same dtype, dropout with p = 0). Everything else copies; `clone`
// does, too.
#pragma once

#include <atomic>
#include <iosfwd>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "weft/core/device.h"
#include "weft/core/dtype.h"
#include "weft/core/shape.h"

namespace weft {

struct Node;  // autograd/node.h

/// A block of memory on one device. `version` counts changes in place, so that a backward over stale values is an error.
struct Storage {
  Storage(int64_t size, Device where) : data(allocate(size, where)), bytes(size), device(where) {}
  /// Host memory of somebody else, who lives as long as this.
  Storage(void* foreign, int64_t size, std::shared_ptr<void> keep_alive) : data(foreign), bytes(size), owner(std::move(keep_alive)) {}
  ~Storage() {
    if (!owner) release(data, bytes, device);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data;
  int64_t bytes;
  Device device;
  std::atomic<uint64_t> version{0};
  std::shared_ptr<void> owner;  // set when the memory belongs to something else (a mapped file)
};

/// What a creation function makes: `zeros({2, 3}, {.dtype = DType::float64})`.
struct TensorOptions {
  DType dtype = DType::float32;
  std::optional<Device> device = {};  // the default device unless given

  Device place() const { return device.value_or(default_device()); }
};

class Tensor {
 public:
  /// No tensor at all: `defined()` is false. Stands for "not given" in options and for "no gradient" in a backward.
  Tensor() = default;
  Tensor(std::shared_ptr<Storage> storage, Shape shape, DType dtype, int64_t byte_offset = 0)
      : storage_(std::move(storage)), shape_(shape), dtype_(dtype), byte_offset_(byte_offset) {}

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  /// Size of one axis; negative axes count from the end.
  int64_t size(int axis) const { return shape_[normalize_axis("size", axis, shape_)]; }
  /// Number of elements: 1 for a scalar, 0 for an undefined tensor.
  int64_t numel() const { return defined() ? shape_.numel() : 0; }
  int64_t bytes() const { return numel() * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : Device::cpu(); }
  /// What makes another tensor of this dtype on this device: `zeros(shape, x.options())`.
  TensorOptions options() const { return {.dtype = dtype_, .device = device()}; }

  /// The elements, for kernels and host code: an error if T is not the dtype. On CUDA a device pointer.
  /// Writing through it is not seen by the graph: a backward through values that were changed gives wrong gradients silently, unless
  /// bump_version tells of the change (copy_from does).
  template <class T>
  T* data() {
    check_type(dtype_of<T>);
    return static_cast<T*>(raw());
  }
  template <class T>
  const T* data() const {
    check_type(dtype_of<T>);
    return static_cast<const T*>(raw());
  }
  void* raw() const { return defined() ? static_cast<std::byte*>(storage_->data) + byte_offset_ : nullptr; }

  /// The only element, as a double (int64 and bool are converted). Waits for the device.
  double item() const;
  /// All elements on the host. T must be the dtype.
  template <class T>
  std::vector<T> to_vector() const;

  /// Copies the elements of `source` (same shape and dtype, any device) into this tensor's memory and counts a change in place.
  void copy_from(const Tensor& source);
  /// Tells the graph that the elements were changed in place (optimizers and loaders call it).
  void bump_version() {
    if (storage_) storage_->version.fetch_add(1, std::memory_order_relaxed);
  }
  uint64_t version() const { return storage_ ? storage_->version.load(std::memory_order_relaxed) : 0; }
  /// True if no other handle sees this memory: an engine may then reuse it.
  bool sole_owner() const { return storage_.use_count() == 1; }
  const std::shared_ptr<Storage>& storage() const { return storage_; }

  /// The same elements under another shape (same number of elements), sharing storage, outside the graph. The op is `reshape`.
  Tensor viewed_as(const Shape& shape) const;
  /// Rows [begin, end) of the first axis, sharing storage, outside the graph. The op is `slice`.
  Tensor rows(int64_t begin, int64_t end) const;

  // The place in the graph, managed by autograd/graph.h.
  const std::shared_ptr<Node>& node() const { return node_; }
  int output_index() const { return output_index_; }
  void attach(std::shared_ptr<Node> node, int output_index) {
    node_ = std::move(node);
    output_index_ = output_index;
  }

 private:
  void check_type(DType requested) const {
    WEFT_CHECK(defined(), "data<{}>: the tensor is undefined (a gradient before the first backward, or an option that was not given)",
               requested);
    WEFT_CHECK(dtype_ == requested, "data<{}>: the tensor is {} {}; convert with to(x, DType::{})", requested, dtype_, shape_, requested);
  }

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  DType dtype_ = DType::float32;
  int64_t byte_offset_ = 0;
  std::shared_ptr<Node> node_;
  int output_index_ = 0;
};

/// Uninitialized elements. NaN-filled in builds with sanitizers, so that a read before a write shows.
Tensor empty(const Shape& shape, TensorOptions options = {});
Tensor empty_like(const Tensor& x);
Tensor zeros(const Shape& shape, TensorOptions options = {});
Tensor zeros_like(const Tensor& x);
Tensor ones(const Shape& shape, TensorOptions options = {});
Tensor full(const Shape& shape, double value, TensorOptions options = {});
/// 0, 1, ..., n-1 (int64 unless asked otherwise).
Tensor arange(int64_t n, TensorOptions options = {.dtype = DType::int64});
/// A copy of host values: `from_vector<float>({1, 2, 3, 4}, {2, 2})`.
template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device = default_device());
/// A scalar.
Tensor scalar(double value, TensorOptions options = {});

/// A copy of the elements, outside the graph.
Tensor clone(const Tensor& x);
/// x itself if it is on the CPU, else a copy there, outside the graph.
Tensor to_host(const Tensor& x);

/// Like NumPy: aligned columns, an ellipsis for tensors over 1000 elements, then shape and dtype.
std::string to_string(const Tensor& x);
std::ostream& operator<<(std::ostream& out, const Tensor& x);

/// dtype and shape of `x` in one phrase for error messages, "float32 [2, 3]"; with its device if that is not the default one.
std::string describe(const Tensor& x);

inline std::string to_text(const Tensor& x) { return describe(x); }

}  // namespace weft
