// Learning rates by step. Step 0 is the first; every schedule starts with a linear warm-up: (s + 1) / warmup_steps * lr.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace weft {

struct ScheduleOptions {
  double lr = 1e-3;
  /// Where cosine and linear end and inverse_sqrt stops falling.
  double min_lr = 0;
  int64_t warmup_steps = 0;
  /// Where cosine and linear reach min_lr.
  int64_t total_steps = 0;
};

/// lr.
double warmup_constant(int64_t step, const ScheduleOptions& options);
/// A straight line from lr to min_lr, then min_lr.
double warmup_linear(int64_t step, const ScheduleOptions& options);
/// Half a cosine from lr to min_lr, then min_lr.
double warmup_cosine(int64_t step, const ScheduleOptions& options);
/// lr sqrt(warmup_steps / (s + 1)), at least min_lr.
double warmup_inverse_sqrt(int64_t step, const ScheduleOptions& options);

using Schedule = std::function<double(int64_t step)>;
/// "constant", "linear", "cosine" or "inverse_sqrt"; an error lists these for any other name.
Schedule make_schedule(const std::string& name, const ScheduleOptions& options);

}  // namespace weft
