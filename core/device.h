// Devices, and the only two entry points to their memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace weft {

/// Where a tensor lives. `cuda` is available in builds with the CUDA backend only.
struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {Kind::cuda, index}; }
  constexpr bool is_cuda() const { return kind == Kind::cuda; }
  constexpr bool operator==(const Device&) const = default;
};

/// "cpu" or "cuda:0".
std::string to_string(Device device);
/// The inverse: "cpu", "cuda", "cuda:1"; an error on anything else or on a device that this build or machine lacks.
Device parse_device(const std::string& text);

/// Where creation functions put tensors when nothing else is said: the CPU until set. `set_default_device(Device::cuda())` at the start of
/// a program moves all of it. Not meant to be changed while other threads create tensors.
Device default_device();
void set_default_device(Device device);
/// CUDA devices of this machine that this build can use.
int cuda_device_count();

/// What computes there, for people: on the CPU the matrix library, its kernels and the number of threads. Programs print it at start.
std::string device_description(Device device = default_device());

/// 64-byte aligned memory on `device`; on the CPU from a size-keyed free list. Zero bytes give nullptr.
void* allocate(int64_t bytes, Device device);
void release(void* data, int64_t bytes, Device device);
/// Copies between any two devices; returns when the host may read or reuse its side.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
/// Waits until the device has done all it was given; reports what kernels found wrong (an index out of range). Nothing on the CPU.
void synchronize(Device device = default_device());

/// Bytes of live tensors and workspaces on `device`, and the largest value since start or the last reset.
int64_t bytes_in_use(Device device = default_device());
int64_t peak_bytes(Device device = default_device());
void reset_peak_bytes(Device device = default_device());
/// Returns cached free memory to the system.
void release_cached_memory(Device device = default_device());

/// Threads that kernels and matrix products share, whichever thread of the program starts them. OpenMP's choice until set.
int num_threads();
void set_num_threads(int threads);

/// Whether float32 matrix products on CUDA may round their operands to TF32 (10 bits of mantissa, several times faster). Off until allowed.
bool tf32_allowed();
void allow_tf32(bool allowed);

inline std::string to_text(Device device) { return to_string(device); }

}  // namespace weft
