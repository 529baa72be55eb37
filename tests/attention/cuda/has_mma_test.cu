// Which GPUs attention on tensor cores is for.
#include "testing.h"
#include "weft/attention/cuda/dot_product_mma.h"
#include "weft/core/cuda/context.h"

using namespace weft;

TEST_CASE("cuda: wide rows stay off the tensor cores where a block has too little shared memory for them") {
  const auto rows = [](int64_t width) { return empty({1, 2, 1, width}, {.dtype = DType::bfloat16, .device = Device::cuda()}); };
  int& available = cuda::context().shared_bytes;
  const int before = available;
  available = 227 << 10;  // A100, H100
  CHECK(cuda::has_mma(rows(256), rows(129)));
  CHECK(!cuda::has_mma(rows(64), rows(257)));
  available = 99 << 10;  // GPUs for graphics
  CHECK(cuda::has_mma(rows(128), rows(128)));
  CHECK(!cuda::has_mma(rows(64), rows(129)));
  available = before;
}
