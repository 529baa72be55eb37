#include "weft/attention/kv_cache.h"

#include "testing.h"

using namespace weft;
using testing::error_of;
using testing::has;
using testing::normal;

namespace {

// Row b of x [B, N, H, D], as [1, N, H, D].
std::vector<double> row(const Tensor& x, int64_t b) { return slice(x, 0, b, b + 1).to_vector<double>(); }

}  // namespace

TEST_CASE("KeyValueCache: holds what was added, in order and row by row, while it grows") {
  for (int64_t capacity : {0, 1, 4, 500}) {
    for (int64_t batch : {1, 3}) {
      CAPTURE(capacity);
      CAPTURE(batch);
      KeyValueCache cache(capacity);
      CHECK(cache.length() == 0);
      CHECK(cache.batch() == 0);
      const Tensor k = normal({batch, 150, 2, 3}, 1), v = normal({batch, 150, 2, 5}, 2);
      int64_t begin = 0;
      for (int64_t n : {1, 2, 0, 1, 60, 1, 85}) {
        cache.append(slice(k, 1, begin, begin + n), slice(v, 1, begin, begin + n));
        begin += n;
        CHECK(cache.length() == begin);
        CHECK(cache.batch() == batch);
        for (int64_t b = 0; b < batch; ++b) {
          CHECK(cache.keys(b).shape() == Shape({1, begin, 2, 3}));
          CHECK(cache.values(b).shape() == Shape({1, begin, 2, 5}));
          CHECK(cache.keys(b).to_vector<double>() == row(slice(k, 1, 0, begin), b));
          CHECK(cache.values(b).to_vector<double>() == row(slice(v, 1, 0, begin), b));
        }
      }
      CHECK(begin == 150);
    }
  }
}

TEST_CASE("KeyValueCache: within the capacity the memory stays where it is, and what is added is a copy") {
  KeyValueCache cache(8);
  Tensor k = normal({1, 4, 2, 3});
  const std::vector<double> before = k.to_vector<double>();
  cache.append(k, k);
  const void* place = cache.keys().raw();
  k.copy_from(zeros_like(k));
  CHECK(cache.keys().to_vector<double>() == before);
  cache.append(k, k);
  CHECK(cache.keys().raw() == place);
  cache.append(k, k);
  CHECK(cache.length() == 12);
  CHECK(slice(cache.keys(), 1, 0, 4).to_vector<double>() == before);
}

TEST_CASE("KeyValueCache: gradients would be lost, so recording is an error") {
  KeyValueCache cache;
  const Tensor k = zeros({1, 2, 1, 3}), w = parameter(zeros({1, 2, 1, 3}));
  CHECK(has(error_of([&] { cache.append(k, w); }), "KeyValueCache: the cache is written in place, so generation must run under NoGrad"));
  CHECK(has(error_of([&] { cache.append(w, k); }), "generation must run under NoGrad"));
  CHECK(cache.length() == 0);
  const NoGrad no_grad;
  cache.append(w, w);
  CHECK(cache.length() == 2);
  CHECK(!requires_grad(cache.keys()));
}

TEST_CASE("KeyValueCache: errors leave it as it was") {
  KeyValueCache cache;
  const Tensor k = normal({2, 3, 2, 4});
  CHECK(has(error_of([&] { cache.append(zeros({2, 3, 4}), zeros({2, 3, 4})); }), "KeyValueCache: expected k and v of [B, N, H, D]"));
  CHECK(has(error_of([&] { cache.append(k, normal({2, 2, 2, 4})); }), "with the same B, N and H"));
  cache.append(k, k);
  CHECK(has(error_of([&] {
              cache.append(normal({1, 3, 2, 4}), normal({1, 3, 2, 4}));
            }),
            "the cache holds keys float64 [2, 64, 2, 4] and values float64 [2, 64, 2, 4]"));
  CHECK(has(error_of([&] { cache.append(normal({2, 3, 1, 4}), normal({2, 3, 1, 4})); }), "the cache holds"));
  CHECK(has(error_of([&] { cache.append(normal({2, 3, 2, 5}), k); }), "the cache holds"));
  CHECK(has(error_of([&] { cache.append(k, normal({2, 3, 2, 5})); }), "the cache holds keys"));
  CHECK(has(error_of([&] { cache.append(to(k, DType::float32), to(k, DType::float32)); }), "the cache holds"));
  CHECK(cache.length() == 3);
  CHECK(cache.keys(1).to_vector<double>() == row(k, 1));
}
