// Philox against its published vectors, and tensors made from its streams: moments, ranges, the same numbers for any thread count.
#include "weft/core/random.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "testing.h"
#include "weft/core/kernels.h"

using namespace weft;
using testing::ThreadCount;

namespace {

using Block = std::array<uint32_t, 4>;

struct Moments {
  double mean = 0, variance = 0, skewness = 0, kurtosis = 0, lowest = 0, highest = 0;
};

Moments moments(const std::vector<double>& x) {
  const double n = static_cast<double>(x.size());
  Moments m;
  m.lowest = m.highest = x[0];
  for (double v : x) {
    m.mean += v / n;
    m.lowest = std::min(m.lowest, v);
    m.highest = std::max(m.highest, v);
  }
  for (double v : x) m.variance += (v - m.mean) * (v - m.mean) / n;
  const double sigma = std::sqrt(m.variance);
  for (double v : x) {
    m.skewness += std::pow((v - m.mean) / sigma, 3) / n;
    m.kurtosis += std::pow((v - m.mean) / sigma, 4) / n;
  }
  return m;
}

std::vector<double> doubles(const Tensor& x) {
  Tensor y = empty(x.shape(), {.dtype = DType::float64});
  WEFT_LAUNCH(y, convert(y, x));
  return y.to_vector<double>();
}

// Pearson correlation of x[i] and x[i + lag].
double correlation(const std::vector<double>& x, size_t lag) {
  const Moments m = moments(x);
  double sum = 0;
  for (size_t i = 0; i + lag < x.size(); ++i) sum += (x[i] - m.mean) * (x[i + lag] - m.mean);
  return sum / static_cast<double>(x.size() - lag) / m.variance;
}

}  // namespace

TEST_CASE("random: Philox 4x32-10 known answers") {
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t all = 0xffffffff;
  CHECK(philox({all, all, all, all}, {all, all}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random: vectors of blocks are the scalar stream, for counters and keys beyond 32 bits") {
  for (const RandomKey key : {RandomKey{0, 0}, RandomKey{0x123456789abcdef, 42}, RandomKey{7, uint64_t{1} << 40}}) {
    for (const int64_t n : {1, 3, 4, 7, 31, 32, 33, 1000, 1023, 1025, 20000}) {
      Tensor y = empty({n});
      WEFT_LAUNCH(y, fill_uniform(y, 0, 1, key));
      const auto got = y.to_vector<float>();
      for (int64_t e = 0; e < n; ++e) {
        const float want = static_cast<float>(key.word(static_cast<uint64_t>(e)) >> 8) * 0x1p-24F;
        if (got[static_cast<size_t>(e)] != want) FAIL("element ", e, " of ", n);
      }
      Tensor wide = empty({n}, {.dtype = DType::float64}), whole = empty({n}, {.dtype = DType::int64});
      WEFT_LAUNCH(wide, fill_uniform(wide, 0, 1, key));
      WEFT_LAUNCH(whole, fill_integers(whole, 1000, key));
      const auto got_wide = wide.to_vector<double>();
      const auto got_whole = whole.to_vector<int64_t>();
      for (int64_t e = 0; e < n; ++e) {
        const auto element = static_cast<uint64_t>(e);
        const uint64_t bits = uint64_t{key.word(2 * element + 1)} << 32 | key.word(2 * element);
        if (got_wide[element] != static_cast<double>(bits >> 11) * 0x1p-53) FAIL("float64 element ", e, " of ", n);
        if (static_cast<uint64_t>(got_whole[element]) != static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * 1000 >> 64)) {
          FAIL("int64 element ", e, " of ", n);
        }
      }
    }
  }
}

TEST_CASE("random: the same numbers for any number of threads") {
  const Shape shape{333, 301};
  const auto draw = [&](int threads) {
    const ThreadCount scope(threads);
    std::vector<std::vector<double>> all;
    for (DType dtype : {DType::float32, DType::float64}) {
      Generator generator(5);
      all.push_back(doubles(rand(shape, -1, 3, {.dtype = dtype}, &generator)));
      all.push_back(doubles(randn(shape, 1, 2, {.dtype = dtype}, &generator)));
      all.push_back(doubles(randint(1000, shape, Device::cpu(), &generator)));
      all.push_back(doubles(keep_mask(shape, 0.3, generator.next())));
      Tensor y = empty(shape, {.dtype = dtype});
      WEFT_LAUNCH(y, dropout(y, ones(shape, {.dtype = dtype}), 0.3, generator.next()));
      all.push_back(doubles(y));
    }
    return all;
  };
  const auto alone = draw(1);
  CHECK(draw(2) == alone);
  CHECK(draw(3) == alone);
}

TEST_CASE("random: uniform numbers") {
  for (DType dtype : {DType::float32, DType::float64}) {
    Generator generator(1);
    const auto x = doubles(rand({200000}, -1, 3, {.dtype = dtype}, &generator));
    const Moments m = moments(x);
    CHECK(std::fabs(m.mean - 1) < 0.01);
    CHECK(std::fabs(m.variance - 16.0 / 12) < 0.01);
    CHECK(m.lowest >= -1);
    CHECK(m.highest < 3);
    CHECK(m.highest > 2.999);
    for (const size_t lag : {1, 2, 3, 4, 1024}) CHECK(std::fabs(correlation(x, lag)) < 0.01);
  }
  // Rounding must not reach the upper end: one step of float32 is half of this interval.
  Generator generator(2);
  const float low = 1, high = 1 + 0x1p-22F;
  for (double v : doubles(rand({1000}, low, high, {}, &generator))) CHECK((v >= low && v < high));
}

TEST_CASE("random: normal numbers") {
  for (DType dtype : {DType::float32, DType::float64}) {
    Generator generator(3);
    const auto x = doubles(randn({200001}, 2, 3, {.dtype = dtype}, &generator));
    const Moments m = moments(x);
    CHECK(std::fabs(m.mean - 2) < 0.03);
    CHECK(std::fabs(m.variance - 9) < 0.1);
    CHECK(std::fabs(m.skewness) < 0.03);
    CHECK(std::fabs(m.kurtosis - 3) < 0.06);
    CHECK(m.highest > 2 + 3 * 4);
    size_t within = 0;
    for (double v : x) within += std::fabs(v - 2) < 3 ? 1 : 0;
    CHECK(std::fabs(static_cast<double>(within) / static_cast<double>(x.size()) - 0.682689) < 0.005);
    for (const size_t lag : {1, 2, 512, 1024}) CHECK(std::fabs(correlation(x, lag)) < 0.01);
  }
  // An element does not depend on how many there are.
  for (const int64_t n : {1, 2, 7, 33, 1024, 1025}) {
    Tensor few = empty({n}), many = empty({5000});
    WEFT_LAUNCH(few, fill_normal(few, 0, 1, RandomKey{4, 4}));
    WEFT_LAUNCH(many, fill_normal(many, 0, 1, RandomKey{4, 4}));
    auto prefix = many.to_vector<float>();
    prefix.resize(static_cast<size_t>(n));
    CHECK(few.to_vector<float>() == prefix);
  }
}

TEST_CASE("random: float32 normals are the float64 formula of the same words") {
  const RandomKey key{8, 9};
  Tensor y = empty({10000});
  WEFT_LAUNCH(y, fill_normal(y, 0, 1, key));
  const auto got = y.to_vector<float>();
  double worst = 0;
  for (size_t j = 0; j + 1 < got.size(); j += 2) {
    const double u = (static_cast<double>(key.word(j)) + 0.5) * 0x1p-32, v = static_cast<double>(key.word(j + 1) >> 8) * 0x1p-24;
    const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * 3.14159265358979323846 * v;
    worst = std::max({worst, std::fabs(got[j] - radius * std::cos(angle)), std::fabs(got[j + 1] - radius * std::sin(angle))});
  }
  CHECK(worst < 2e-6);
}

TEST_CASE("random: integers") {
  Generator generator(6);
  const auto x = randint(10, {100000}, Device::cpu(), &generator).to_vector<int64_t>();
  std::array<int, 10> counts{};
  for (int64_t v : x) {
    REQUIRE((v >= 0 && v < 10));
    ++counts[static_cast<size_t>(v)];
  }
  double chi_squared = 0;
  for (int count : counts) chi_squared += (count - 10000.0) * (count - 10000.0) / 10000;
  CHECK(chi_squared < 27.9);  // 9 degrees of freedom, one in a thousand
  for (int64_t v : randint(1, {50}, Device::cpu(), &generator).to_vector<int64_t>()) CHECK(v == 0);
  const int64_t most = std::numeric_limits<int64_t>::max();
  double mean = 0;
  for (int64_t v : randint(most, {10000}, Device::cpu(), &generator).to_vector<int64_t>()) {
    CHECK(v >= 0);
    mean += static_cast<double>(v) / static_cast<double>(most) / 10000;
  }
  CHECK(std::fabs(mean - 0.5) < 0.02);
}

TEST_CASE("random: masks keep with probability 1 - p, word by word") {
  const RandomKey key{10, 11};
  for (const double p : {0.0, 1e-12, 0.1, 0.5, 0.999, 1.0}) {
    const auto mask = keep_mask({50000}, p, key).to_vector<bool>();
    size_t kept = 0;
    for (size_t e = 0; e < mask.size(); ++e) {
      if (mask[e] != (key.word(e) >= drop_threshold(p))) FAIL("element ", e, " at p = ", p);
      kept += mask[e] ? 1 : 0;
    }
    CHECK(std::fabs(static_cast<double>(kept) / 50000 - (1 - p)) < 0.01);
    Tensor x = full({50000}, 3), y = empty({50000});
    WEFT_LAUNCH(y, dropout(y, x, p, key));
    const auto out = y.to_vector<float>();
    for (size_t e = 0; e < mask.size(); ++e) {
      if (out[e] != (mask[e] ? 3 * static_cast<float>(1 / (1 - p)) : 0)) FAIL("dropout element ", e, " at p = ", p);
    }
  }
}

TEST_CASE("random: generators hand out streams, and can be copied, scoped and restarted") {
  Generator generator(9);
  const RandomKey first = generator.next(), second = generator.next();
  CHECK((first.seed == 9 && first.offset == 0 && second.offset == 1));
  Generator copy = generator;
  CHECK(copy.next().offset == generator.next().offset);
  Generator resumed(generator.seed(), generator.offset());
  CHECK(resumed.next().offset == generator.next().offset);

  manual_seed(3);
  const auto x = rand({8}).to_vector<float>(), y = rand({8}).to_vector<float>();
  CHECK(x != y);
  manual_seed(3);
  CHECK(rand({8}).to_vector<float>() == x);
  {
    Generator own(3);
    const GeneratorScope scope(own);
    CHECK(&default_generator() == &own);
    CHECK(rand({8}).to_vector<float>() == x);
  }
  CHECK(rand({8}).to_vector<float>() == y);
  CHECK(rand({8}, 0, 1, {}, &copy).to_vector<float>() != y);
}

TEST_CASE("random: another dtype without bounds") {
  const TensorOptions f64{.dtype = DType::float64};
  Generator a(5), b(5);
  CHECK(randn({7}, f64, &a).to_vector<double>() == randn({7}, 0, 1, f64, &b).to_vector<double>());
  CHECK(rand({7}, {.dtype = DType::float64}, &a).to_vector<double>() == rand({7}, 0, 1, f64, &b).to_vector<double>());
  CHECK(randn({7}, {.dtype = DType::float64}).dtype() == DType::float64);
}

TEST_CASE("random: errors") {
  CHECK_THROWS_WITH_AS(randint(0, {2}), "randint: the upper bound must be at least 1, got 0", Error);
  CHECK_THROWS_WITH_AS(keep_mask({2}, 1.5, {}), "keep_mask: the probability must be in [0, 1], got 1.5", Error);
  CHECK_THROWS_WITH_AS(rand({2}, 1, 0), "rand: expected low <= high, got [1, 0)", Error);
  CHECK_THROWS_WITH_AS(randn({2}, 0, -1), "randn: the standard deviation must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(rand({2}, 0, 1, {.dtype = DType::int64}), doctest::Contains("got int64; convert with to(x, DType::float32)"), Error);
  CHECK_THROWS_WITH_AS(randn({2}, 0, 1, {.dtype = DType::float16, .device = Device::cpu()}),
                       "randn: expected float32 or float64, got float16; convert with to(x, DType::float32)", Error);
}
