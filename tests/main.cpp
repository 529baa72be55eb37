// WEFT_TEST_DEVICE=cuda runs the tests there: every tensor that names no device is made on it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>

#include "weft/core/device.h"

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  if (const char* device = std::getenv("WEFT_TEST_DEVICE"); device != nullptr && !context.shouldExit()) {
    try {
      weft::set_default_device(weft::parse_device(device));
    } catch (const std::exception& error) {
      std::cerr << error.what() << '\n';
      return 1;
    }
  }
  return context.run();
}
