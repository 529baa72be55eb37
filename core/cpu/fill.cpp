// Fills and conversions: one pass over memory, no arithmetic worth a vector type of its own.
#include <type_traits>

#include "weft/core/kernels.h"

namespace weft::cpu {

void fill(Tensor& y, double value) {
  dispatch_all(y.dtype(), [&]<class T>() {
    T element;
    if constexpr (std::is_same_v<T, bool>) {
      element = value != 0;
    } else if constexpr (sizeof(T) == 2) {
      element = T(static_cast<float>(value));
    } else {
      element = static_cast<T>(value);
    }
    T* out = y.data<T>();
    const int64_t n = y.numel();
#pragma omp parallel for if (n > 1 << 16)
    for (int64_t i = 0; i < n; ++i) out[i] = element;
  });
}

}  // namespace weft::cpu
