#include "weft/core/cpu/parallel.h"

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "testing.h"

TEST_SUITE_BEGIN("host");

namespace weft::cpu {
namespace {

using testing::ThreadCount;

std::vector<std::pair<int64_t, int64_t>> pieces(int64_t n, int64_t grain) {
  std::mutex mutex;
  std::vector<std::pair<int64_t, int64_t>> found;
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    std::lock_guard lock(mutex);
    found.emplace_back(begin, end);
  });
  std::sort(found.begin(), found.end());
  return found;
}

TEST_CASE("parallel_for: contiguous pieces cover the range once, whatever n, grain and threads") {
  for (int threads : {1, 2, 3, 7}) {
    ThreadCount scope(threads);
    for (int64_t n : {0, 1, 2, 7, 33, 100, 1001}) {
      for (int64_t grain : {0, 1, 7, 33, 1000, 5000}) {
        CAPTURE(threads);
        CAPTURE(n);
        CAPTURE(grain);
        const auto found = pieces(n, grain);
        CHECK(found == pieces(n, grain));
        CHECK(static_cast<int>(found.size()) <= threads);
        int64_t next = 0;
        for (auto [begin, end] : found) {
          CHECK(begin == next);
          CHECK(end > begin);
          next = end;
        }
        CHECK(next == n);
        if (n > 0 && n <= grain) CHECK(found.size() == 1);
      }
    }
  }
}

TEST_CASE("set_num_threads holds for every thread of the program") {
  ThreadCount scope(3);
  int chosen = 0, blas = 0;
  size_t found = 0;
  std::thread other([&] {
    chosen = num_threads();
    found = pieces(100, 1).size();
    apply_num_threads();
    blas = omp_get_max_threads();
  });
  other.join();
  CHECK(chosen == 3);
  CHECK(found == 3);
  CHECK(blas == 3);
}

TEST_CASE("parallel_for: small and nested loops stay on the calling thread") {
  ThreadCount scope(3);
  parallel_for(10, 10, [&](int64_t, int64_t) { CHECK(omp_in_parallel() == 0); });
  std::vector<int> outer(9), inner(9);
  parallel_for(9, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      outer[static_cast<size_t>(i)] = omp_get_thread_num();
      parallel_for(100, 1, [&](int64_t b, int64_t e) {
        inner[static_cast<size_t>(i)] = omp_get_thread_num();
        if (b != 0 || e != 100) inner[static_cast<size_t>(i)] = -1;
      });
    }
  });
  CHECK(inner == outer);
}

TEST_CASE("parallel_for: an exception arrives at the caller, the lowest piece's first") {
  ThreadCount scope(4);
  for (int64_t n : {int64_t{1}, int64_t{100}}) {
    std::string message;
    try {
      parallel_for(n, 1, [](int64_t begin, int64_t) { throw std::runtime_error("piece at " + std::to_string(begin)); });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    CHECK(message == "piece at 0");
  }
  int64_t total = 0;  // the pool still works
  std::vector<int64_t> values(1000);
  parallel_for(1000, 1, [&](int64_t begin, int64_t end) { std::iota(values.begin() + begin, values.begin() + end, begin); });
  for (int64_t v : values) total += v;
  CHECK(total == 499500);
}

}  // namespace
}  // namespace weft::cpu
