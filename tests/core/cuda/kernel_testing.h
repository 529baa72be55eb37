// For tests that bring their own kernels: device memory as vectors, and what a process says when it dies.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "testing.h"
#include "weft/core/cuda/common.cuh"

namespace weft::testing {

/// n elements on the device, of any plain type; all of them `value` at first.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t n, T value = {}) : DeviceArray(std::vector<T>(static_cast<size_t>(n), value)) {}
  explicit DeviceArray(const std::vector<T>& values) : n_(static_cast<int64_t>(values.size())), data_(allocate(bytes(), Device::cuda())) {
    copy_bytes(data_, Device::cuda(), values.data(), Device::cpu(), bytes());
  }
  ~DeviceArray() { release(data_, bytes(), Device::cuda()); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return static_cast<T*>(data_); }
  std::vector<T> values() const {
    std::vector<T> values(static_cast<size_t>(n_));
    copy_bytes(values.data(), Device::cpu(), data_, Device::cuda(), bytes());
    return values;
  }

 private:
  int64_t bytes() const { return n_ * static_cast<int64_t>(sizeof(T)); }
  int64_t n_;
  void* data_;
};

/// f(0), f(1), ...: what n threads should have computed.
template <class T, class F>
std::vector<T> expected(int64_t n, F f) {
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<T>(f(static_cast<int>(i))));
  return values;
}

/// What a copy of this process writes to stderr when it dies of f; empty if f comes to its end.
template <class F>
std::string last_words(F f) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
#ifndef WEFT_SANITIZED  // the sanitizer has its own handler, which reports
    std::signal(SIGSEGV, SIG_DFL);
#endif
    std::signal(SIGABRT, SIG_DFL);
    f();
    _exit(0);
  }
  ::close(ends[1]);
  std::string words = "it died: ";
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) words.append(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : words;
}

}  // namespace weft::testing
