// Element types. A runtime enum; only kernels are templates, entered through dispatch_float / dispatch_all.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "weft/core/error.h"
#include "weft/core/half.h"

namespace weft {

/// float16 and bfloat16 are storage types on the CPU (files carry them): convert with `to` before computing.
enum class DType : uint8_t { float32, float64, float16, bfloat16, int64, boolean };

const char* name_of(DType dtype);
int64_t size_of(DType dtype);
inline bool is_float(DType dtype) { return dtype <= DType::bfloat16; }

inline std::string to_text(DType dtype) { return name_of(dtype); }

namespace detail {
template <class T>
struct dtype_of_type;
template <>
struct dtype_of_type<float> {
  static constexpr DType value = DType::float32;
};
template <>
struct dtype_of_type<double> {
  static constexpr DType value = DType::float64;
};
template <>
struct dtype_of_type<float16> {
  static constexpr DType value = DType::float16;
};
template <>
struct dtype_of_type<bfloat16> {
  static constexpr DType value = DType::bfloat16;
};
template <>
struct dtype_of_type<int64_t> {
  static constexpr DType value = DType::int64;
};
template <>
struct dtype_of_type<bool> {
  static constexpr DType value = DType::boolean;
};
}  // namespace detail

/// The DType of a C++ element type.
template <class T>
inline constexpr DType dtype_of = detail::dtype_of_type<T>::value;

/// What a kernel accumulates in: float for float and the half types, double for double.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using acc_t = typename accumulator<T>::type;
/// The DType of acc_t: of statistics and losses that must not be rounded to half precision.
inline DType acc_dtype(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

/// Calls f.operator()<T>() with the C++ type of a float32 or float64 dtype; anything else is an error that names `op`.
template <class F>
decltype(auto) dispatch_float(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f.template operator()<float>();
    case DType::float64:
      return f.template operator()<double>();
    default:
      fail("{}: expected float32 or float64, got {}; convert with to(x, DType::float32)", op, dtype);
  }
}

/// Calls f.operator()<T>() for any dtype: for kernels that only move elements.
template <class F>
decltype(auto) dispatch_all(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f.template operator()<float>();
    case DType::float64:
      return f.template operator()<double>();
    case DType::float16:
      return f.template operator()<float16>();
    case DType::bfloat16:
      return f.template operator()<bfloat16>();
    case DType::int64:
      return f.template operator()<int64_t>();
    case DType::boolean:
      return f.template operator()<bool>();
  }
  fail("unknown dtype {}", static_cast<int>(dtype));
}

/// Calls f.operator()<T>() with an unsigned integer of the element's size: for kernels that only move elements.
template <class F>
void dispatch_size(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    default:
      return f.template operator()<uint64_t>();
  }
}

}  // namespace weft
