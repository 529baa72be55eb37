#include "weft/train/schedule.h"

#include <doctest/doctest.h>

#include <cmath>

#include "weft/core/error.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

const ScheduleOptions options{.lr = 2, .min_lr = 0.5, .warmup_steps = 4, .total_steps = 12};

TEST_CASE("every schedule starts with a straight line from lr / warmup_steps to lr") {
  for (const char* name : {"constant", "linear", "cosine", "inverse_sqrt"}) {
    const Schedule schedule = make_schedule(name, options);
    for (int64_t step = 0; step < 4; ++step) CHECK(schedule(step) == doctest::Approx(0.5 * static_cast<double>(step + 1)));
    CHECK(schedule(4) <= 2);
  }
}

TEST_CASE("after the warm-up") {
  for (int64_t step : {4, 8, 11, 12, 1000}) CHECK(warmup_constant(step, options) == 2);
  CHECK(warmup_linear(4, options) == 2);
  CHECK(warmup_linear(8, options) == doctest::Approx(1.25));
  CHECK(warmup_linear(12, options) == 0.5);
  CHECK(warmup_linear(99, options) == 0.5);
  CHECK(warmup_cosine(4, options) == 2);
  CHECK(warmup_cosine(6, options) == doctest::Approx(0.5 + 1.5 * (1 + std::sqrt(0.5)) / 2));
  CHECK(warmup_cosine(8, options) == doctest::Approx(1.25));
  CHECK(warmup_cosine(12, options) == 0.5);
  CHECK(warmup_cosine(99, options) == 0.5);
  CHECK(warmup_inverse_sqrt(3, options) == 2);
  CHECK(warmup_inverse_sqrt(15, options) == doctest::Approx(1));
  CHECK(warmup_inverse_sqrt(10000, options) == 0.5);
}

TEST_CASE("schedules without a warm-up, or that end in it") {
  CHECK(warmup_cosine(0, {.lr = 1, .total_steps = 10}) == 1);
  CHECK(warmup_constant(0, {.lr = 1}) == 1);
  CHECK(warmup_inverse_sqrt(3, {.lr = 1}) == 0.5);
  CHECK(warmup_linear(4, {.lr = 1, .min_lr = 0.25, .warmup_steps = 4, .total_steps = 4}) == 0.25);
}

TEST_CASE("an unknown schedule names the known ones") {
  CHECK_THROWS_WITH_AS(make_schedule("cosin", options),
                       "schedule: unknown name \"cosin\"; did you mean \"cosine\"? known: constant, cosine, inverse_sqrt, linear", Error);
}

}  // namespace
}  // namespace weft
