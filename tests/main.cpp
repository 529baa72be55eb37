// WEFT_TEST_DEVICE=cuda runs the tests there: every tensor that names no device is made on it. WEFT_TEST_NEEDS=cuda: the tests compare both
// devices. Without a GPU, in a build for one, both are skipped.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "weft/core/device.h"

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string device = variable("WEFT_TEST_DEVICE");
  if (!context.shouldExit() && (device.starts_with("cuda") || variable("WEFT_TEST_NEEDS") == "cuda")) {
    constexpr int skipped = 77;  // as ctest is told
    if (weft::cuda_device_count() == 0) {
      std::cout << "skipped: no GPU\n";
      return skipped;
    }
    if (!device.empty()) weft::set_default_device(weft::parse_device(device));
  }
  return context.run();
}
