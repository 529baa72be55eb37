// Checks of indices: the first wrong one is an error at once.
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

// Calls wrong(index, place) for the first that is outside [0, size).
template <class F>
void find_wrong(const Tensor& indices, int64_t size, F&& wrong) {
  const int64_t* index = indices.data<int64_t>();
  for (int64_t i = 0; i < indices.numel(); ++i) {
    if (index[i] < 0 || index[i] >= size) wrong(index[i], i);
  }
}

}  // namespace

void check_range(const Tensor& index, int64_t size, const char* op, const std::string& of) {
  find_wrong(index, size, [&](int64_t at, int64_t) { fail("{}: index {} is out of range [0, {}) of {}", op, at, size, of); });
}

void check_range(const Tensor& index, int64_t size, const std::string& message) {
  find_wrong(index, size, [&](int64_t at, int64_t place) { fail(message, at, place); });
}

void target_share(Tensor& share, const Tensor& targets, int64_t classes, int64_t ignore_index, const std::string& message) {
  const int64_t* target = targets.data<int64_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (target[i] == ignore_index) continue;
    WEFT_CHECK(0 <= target[i] && target[i] < classes, message, target[i], i);
    ++count;
  }
  if (share.defined()) fill(share, 1 / static_cast<double>(count));
}

}  // namespace weft::cpu
