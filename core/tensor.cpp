#include "weft/core/tensor.h"

#include <algorithm>
#include <limits>

#include "weft/core/kernels.h"

namespace weft {

double Tensor::item() const {
  WEFT_CHECK(defined() && numel() == 1, "item: expected a tensor of one element, got {}", *this);
  const Tensor host = to_host(*this);
  return dispatch_all(dtype_, [&]<class T>() {
    const T value = *host.data<T>();
    if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>) {
      return static_cast<double>(static_cast<float>(value));
    } else {
      return static_cast<double>(value);
    }
  });
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  WEFT_CHECK(defined(), "to_vector: the tensor is undefined (a gradient before the first backward, or an option that was not given)");
  check_type(dtype_of<T>);
  std::vector<T> values(static_cast<size_t>(numel()));
  if constexpr (std::is_same_v<T, bool>) {  // vector<bool> has no contiguous memory
    const Tensor host = to_host(*this);
    std::copy_n(host.data<bool>(), numel(), values.begin());
  } else if (numel() > 0) {
    copy_bytes(values.data(), Device::cpu(), raw(), device(), bytes());
  }
  return values;
}

template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device) {
  WEFT_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "from_vector: {} values do not fill shape {} ({} elements)",
             values.size(), shape, shape.numel());
  Tensor host = empty(shape, {.dtype = dtype_of<T>, .device = Device::cpu()});
  if (shape.numel() > 0) std::copy(values.begin(), values.end(), host.data<T>());
  if (!device.is_cuda()) return host;
  Tensor x = empty(shape, {.dtype = dtype_of<T>, .device = device});
  copy_bytes(x.raw(), device, host.raw(), Device::cpu(), x.bytes());
  return x;
}

#define WEFT_INSTANTIATE(T)                             \
  template std::vector<T> Tensor::to_vector<T>() const; \
  template Tensor from_vector<T>(const std::vector<T>&, const Shape&, Device);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(float16)
WEFT_INSTANTIATE(bfloat16)
WEFT_INSTANTIATE(int64_t)
WEFT_INSTANTIATE(bool)
#undef WEFT_INSTANTIATE

void Tensor::copy_from(const Tensor& source) {
  WEFT_CHECK(defined() && source.defined(), "copy_from: the tensor is {}, the source {}; both must be defined", *this, source);
  WEFT_CHECK(source.shape() == shape_ && source.dtype() == dtype_, "copy_from: expected {}, got {}", *this, source);
  if (numel() > 0) copy_bytes(raw(), device(), source.raw(), source.device(), bytes());
  bump_version();
}

Tensor Tensor::viewed_as(const Shape& shape) const {
  WEFT_CHECK(defined(), "reshape: the tensor is undefined");
  WEFT_CHECK(shape.numel() == numel(), "reshape: {} has {} elements, {} would have {}", shape_, numel(), shape, shape.numel());
  return Tensor(storage_, shape, dtype_, byte_offset_);
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  WEFT_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0], "rows: [{}, {}) is out of range for {}", begin, end, shape_);
  Shape shape = shape_;
  shape[0] = end - begin;
  const int64_t row_bytes = shape_[0] == 0 ? 0 : bytes() / shape_[0];
  return Tensor(storage_, shape, dtype_, byte_offset_ + begin * row_bytes);
}

#ifdef WEFT_WITH_CUDA
void detail::fail_launch(const DeviceError& error, const char* call, const Tensor& tensor) {
  throw DeviceError(format("{}; in {} for {}", error.what(), call, tensor));
}
#endif

Tensor empty(const Shape& shape, TensorOptions options) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max() / 2;  // leaves room for rounding up
  int64_t bytes = size_of(options.dtype);
  for (int64_t size : shape) {
    WEFT_CHECK(size == 0 || bytes <= most / size, "empty: shape {} is larger than any memory", shape);
    bytes *= size;
  }
  std::shared_ptr<Storage> storage;
  try {
    storage = std::make_shared<Storage>(bytes, options.place());
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(format("empty: no memory for {} {}: {}", options.dtype, shape, error.what()));
  }
  Tensor x(std::move(storage), shape, options.dtype);
#ifdef WEFT_SANITIZED
  if (is_float(options.dtype) && !options.place().is_cuda()) cpu::fill(x, std::numeric_limits<double>::quiet_NaN());
#endif
  return x;
}

Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.options()); }

Tensor full(const Shape& shape, double value, TensorOptions options) {
  Tensor x = empty(shape, options);
  WEFT_LAUNCH(x, fill(x, value));
  return x;
}

Tensor zeros(const Shape& shape, TensorOptions options) { return full(shape, 0, options); }
Tensor zeros_like(const Tensor& x) { return zeros(x.shape(), x.options()); }
Tensor ones(const Shape& shape, TensorOptions options) { return full(shape, 1, options); }
Tensor scalar(double value, TensorOptions options) { return full({}, value, options); }

Tensor arange(int64_t n, TensorOptions options) {
  WEFT_CHECK(n >= 0, "arange: the length must not be negative, got {}", n);
  Tensor x = empty({n}, options);
  WEFT_LAUNCH(x, fill_range(x));
  return x;
}

Tensor clone(const Tensor& x) {
  WEFT_CHECK(x.defined(), "clone: the tensor is undefined");
  Tensor y = empty_like(x);
  if (x.numel() > 0) copy_bytes(y.raw(), y.device(), x.raw(), x.device(), x.bytes());
  return y;
}

Tensor to_host(const Tensor& x) {
  if (!x.device().is_cuda()) return x;
  Tensor host = empty(x.shape(), {.dtype = x.dtype(), .device = Device::cpu()});
  host.copy_from(x);
  return host;
}

std::string describe(const Tensor& x) {
  if (!x.defined()) return "an undefined tensor";
  std::string text = std::string(name_of(x.dtype())) + " " + to_string(x.shape());
  if (x.device() != default_device()) text += " on " + to_string(x.device());
  return text;
}

}  // namespace weft
