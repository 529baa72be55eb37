#include "weft/core/device.h"

#include "testing.h"

TEST_SUITE_BEGIN("host");

using namespace weft;

TEST_CASE("device_description: the library, its kernels and the threads that a program will use") {
  const testing::ThreadCount scope(1);
  const std::string text = device_description();
  CAPTURE(text);
  CHECK(testing::has(text, "OpenBLAS "));
  CHECK(testing::has(text, " kernels"));
  CHECK(testing::has(text, "1 thread"));
  if (cuda_device_count() == 0) {
    CHECK(!testing::error_of([] { device_description(Device::cuda()); }).empty());
  } else {
    CHECK(testing::has(device_description(Device::cuda()), " multiprocessors, "));
  }
}
