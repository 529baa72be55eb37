// weft_bench [--only TEXT] [--threads N] [--device cpu|cuda] [--json FILE]: times the cases, one JSON line each.
//
// Every case runs in a process of its own: this program starts itself again with --in-process NAME and copies the line that comes back.
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>

#include "bench.h"
#include "weft/core/cuda/device.h"
#include "weft/core/device.h"
#include "weft/core/error.h"

namespace weft::bench {
namespace {

Cases all_cases(Device device) {
  Cases cases;
  add_matmul_cases(cases);
  add_attention_cases(cases);
  add_mechanism_cases(cases);
  add_training_cases(cases);
  add_generation_cases(cases);
  if (device.is_cuda()) add_cuda_cases(cases);
  return cases;
}

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double time_ms(const Run& run, [[maybe_unused]] Device device) {
#ifdef WEFT_WITH_CUDA
  if (device.is_cuda()) return cuda::time_ms(run, device.index);
#endif
  const double start = now_ms();
  run();
  return now_ms() - start;
}

// Peak resident memory of this process in MB, as the kernel counted it.
double peak_rss_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

// A warm-up, then repeated runs until there are enough of them for a steady median.
std::string measure(const Case& chosen, Device device) {
  constexpr double warm_up_ms = 200, enough_ms = 2000;
  constexpr size_t fewest_runs = 3, most_runs = 200;
  const Run run = chosen.set_up(device);
  for (double warm = 0; warm < warm_up_ms;) warm += time_ms(run, device);
  std::vector<double> times;
  double total = 0;
  while (times.size() < fewest_runs || (total < enough_ms && times.size() < most_runs)) {
    times.push_back(time_ms(run, device));
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  const double median = (times[(times.size() - 1) / 2] + times[times.size() / 2]) / 2;
  return fmt::format(
      R"({{"case": "{}", "ms": {:.4f}, "peak_rss_mb": {:.1f}, "best_ms": {:.4f}, "runs": {}, "operations": {:.6g}, "bytes": {:.6g}, )"
      R"("peak_device_mb": {:.1f}}})",
      chosen.name, median / chosen.results_per_run, peak_rss_mb(), times.front() / chosen.results_per_run, times.size(),
      chosen.operations / chosen.results_per_run, chosen.bytes / chosen.results_per_run,
      static_cast<double>(peak_bytes(device)) / (1 << 20));
}

// Runs `arguments` as a program and returns what it prints, or nothing if it fails.
std::optional<std::string> output_of(std::vector<std::string> arguments) {
  int channel[2];
  WEFT_CHECK(pipe(channel) == 0, "weft_bench: no pipe to a child process");
  const pid_t child = fork();
  WEFT_CHECK(child >= 0, "weft_bench: no child process");
  if (child == 0) {
    dup2(channel[1], STDOUT_FILENO);
    close(channel[0]);
    close(channel[1]);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    execv("/proc/self/exe", pointers.data());
    _exit(127);
  }
  close(channel[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(channel[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(channel[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? std::optional(text) : std::nullopt;
}

// The case of exactly this name, or every case with the text in its name.
Cases select(const Cases& cases, const std::string& text) {
  Cases exact, partial;
  for (const Case& c : cases) {
    if (c.name == text) exact.push_back(c);
    if (c.name.find(text) != std::string::npos) partial.push_back(c);
  }
  return exact.empty() ? partial : exact;
}

int run(int argc, char** argv) {
  std::string only, device_name = "cpu", json_file, in_process;
  int threads = 0;
  bool list = false;
  CLI::App app{"Times the cases of the library and prints one JSON line for each: median milliseconds and peak resident memory"};
  app.add_option("--only", only, "cases with this text in their names, or the one case of this name");
  app.add_option("--threads", threads, "threads of the CPU backend (default: all)")->check(CLI::Range(1, 1024));
  app.add_option("--device", device_name, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--json", json_file, "also write the lines to this file");
  app.add_flag("--list", list, "print the names and stop");
  app.add_option("--in-process", in_process, "run one case in this process")->group("");
  CLI11_PARSE(app, argc, argv);

  const Device device = parse_device(device_name);
  set_default_device(device);
  if (threads > 0) set_num_threads(threads);
  const Cases cases = select(all_cases(device), in_process.empty() ? only : in_process);
  if (cases.empty()) {
    fmt::print(stderr, "no case has \"{}\" in its name; --list prints them all\n", only);
    return 1;
  }
  if (list) {
    for (const Case& c : cases) fmt::print("{}\n", c.name);
    return 0;
  }
  if (!in_process.empty()) {
    fmt::print("{}\n", measure(cases.front(), device));
    return 0;
  }

  fmt::print(stderr, "{}\n", device_description(device));
  std::ofstream json;
  if (!json_file.empty()) {
    json.open(json_file);
    WEFT_CHECK(json.good(), "weft_bench: cannot write {}", json_file);
  }
  int failed = 0;
  for (const Case& c : cases) {
    std::vector<std::string> arguments = {argv[0], "--in-process", c.name, "--device", device_name};
    if (threads > 0) arguments.insert(arguments.end(), {"--threads", std::to_string(threads)});
    if (const auto line = output_of(arguments)) {
      std::cout << *line << std::flush;
      json << *line << std::flush;
      WEFT_CHECK(std::cout.good(), "weft_bench: cannot write to standard output");
      WEFT_CHECK(json_file.empty() || json.good(), "weft_bench: cannot write {}", json_file);
    } else {
      fmt::print(stderr, "{}: failed\n", c.name);
      ++failed;
    }
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  try {
    return weft::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());  // which does not throw where stderr is closed
    return 1;
  }
}
