#include "weft/nn/kept_tensor.h"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

using namespace weft;

TEST_CASE("KeptTensor: made once, again when it no longer fits, and shared by copies") {
  int made = 0;
  const auto rows = [&](const KeptTensor& kept, int64_t n) {
    return kept.get([&](const Tensor& x) { return x.size(0) >= n; }, [&] { return ++made, full({n}, static_cast<double>(n)); });
  };
  const KeptTensor kept;
  CHECK(rows(kept, 3).numel() == 3);
  CHECK(rows(kept, 2).numel() == 3);
  CHECK(rows(kept, 5).numel() == 5);
  const KeptTensor copy = kept;
  CHECK(rows(copy, 4).numel() == 5);
  CHECK(made == 2);
}

TEST_CASE("KeptTensor: threads that ask for different values each get theirs") {
  const KeptTensor kept;
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = 0; i < 300; ++i) {
        const int64_t n = 1 + (i + static_cast<int64_t>(t)) % 5;
        const Tensor x = kept.get([&](const Tensor& old) { return old.numel() == n; }, [&] { return full({n}, static_cast<double>(n)); });
        wrong[t] += x.to_vector<float>() != std::vector<float>(static_cast<size_t>(n), static_cast<float>(n));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}
