#include "weft/core/dtype.h"

namespace weft {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float64:
      return "float64";
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::int64:
      return "int64";
    case DType::boolean:
      return "bool";
  }
  return "unknown";
}

int64_t size_of(DType dtype) {
  return dispatch_all(dtype, []<class T>() { return static_cast<int64_t>(sizeof(T)); });
}

}  // namespace weft
