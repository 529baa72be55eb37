// A benchmark case: a name, what a run of it computes, and a set-up that returns the function to time.
//
// A new case is one `add` in the cases_*.cpp file of its kind. Each case runs in a process of its own (weft_bench.cpp), so a set-up may
// allocate what it likes, and the process's peak memory is the case's.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "weft/core/device.h"

namespace weft::bench {

/// What is timed. On CUDA it returns before the device has finished; weft_bench waits.
using Run = std::function<void()>;

struct Case {
  std::string name;
  /// Operations of one run (a multiply-add is two), for the fraction of the machine's matrix peak; 0 if that says nothing.
  double operations = 0;
  std::function<Run(Device)> set_up;
  /// Results of one run (generated tokens): the time is reported for one of them.
  int results_per_run = 1;
  /// The fewest bytes that one run moves through memory (each input read once, each output written once), where they decide.
  double bytes = 0;
  /// Half types: these run with --device cuda only.
  bool cuda_only = false;
};

using Cases = std::vector<Case>;

void add_matmul_cases(Cases& cases);
void add_attention_cases(Cases& cases);
void add_mechanism_cases(Cases& cases);
void add_training_cases(Cases& cases);
void add_generation_cases(Cases& cases);
void add_cuda_cases(Cases& cases);

}  // namespace weft::bench
