// What core/device.cpp needs of the CUDA backend: no CUDA header, so that plain C++ files can include it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace weft::cuda {

/// Devices of this machine; 0 without a driver.
int device_count();
/// "NVIDIA H200, 132 multiprocessors, 139 GiB".
std::string description(int index);

void* allocate(int64_t bytes, int index);
void release(void* data, int64_t bytes, int index) noexcept;
int64_t bytes_in_use(int index);
int64_t peak_bytes(int index);
void reset_peak_bytes(int index);
void release_cached_memory(int index);

/// Copies host to device, device to host, or between devices (-1 stands for the host). To the host it waits, and reports what kernels found
/// wrong until then (check_range); otherwise it goes through pinned memory and returns as soon as the source may be reused.
void copy_bytes(void* to, int to_index, const void* from, int from_index, int64_t bytes);
void synchronize(int index);
/// How often this process has waited for a device: a training step that does not read its loss does not.
int64_t synchronization_count();

/// Milliseconds between two events around `run` on the device's stream. The L2 cache is emptied before: what is timed reads memory.
double time_ms(const std::function<void()>& run, int index);

/// Makes the device the one that kernels run on while it lives, for this thread: WEFT_LAUNCH has one. A program that calls cudaSetDevice
/// itself sets it back before it calls weft.
class DeviceScope {
 public:
  explicit DeviceScope(int index);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_;
};

}  // namespace weft::cuda
