// Runs CUDA kernels on the CPU: one fiber per CUDA thread, one block after the other, threads resumed in a shuffled, seeded order.
// README.md beside this file tells what it finds that a GPU would not. Kernels see it through cuda_runtime.h only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>

namespace weft::emulated {

using Location = std::source_location;

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
struct Size3 {
  unsigned x, y, z;
  constexpr Size3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};

/// What one CUDA thread knows about itself.
struct Position {
  Index3 thread, block;
  Size3 block_size, grid_size;
};
/// Of the CUDA thread that runs now; null outside kernels. Written by the emulator only.
extern const Position* running;
[[noreturn]] void outside_kernel();
inline const Position& position() {
  if (running == nullptr) [[unlikely]]
    outside_kernel();
  return *running;
}

/// Runs `kernel` once per thread of the grid. Errors of the kernel are weft::Errors that name the launch, the block and the thread.
void run(const std::function<void()>& kernel, Size3 grid, Size3 block, size_t dynamic_shared_bytes, const Location& launched_at);

/// An error if a pointer that a kernel is given leads to memory that a GPU could not reach.
void check_pointer(const void* p, const Location& launched_at);
/// "softmax [T = float] at softmax.cu:12": how errors name the launch of a kernel.
std::string name_of(const Location& launched_at);

/// Ends the kernel with an error that names where it happened.
[[noreturn]] void fault(const std::string& what);

/// Waits until every thread of the block has come to this place. Returns how many of them passed `predicate`.
int block_barrier(bool predicate, const char* op, const Location& at);

inline constexpr int warp_size = 32;
inline constexpr int most_words = 16;
/// 32-bit words of every lane of a warp.
struct Lanes {
  uint32_t word[warp_size][most_words];
};
/// Waits until every lane that `mask` names has come to this place, and returns what each of them gave. The result is valid until this
/// lane's next exchange.
const Lanes& warp_exchange(uint32_t mask, const uint32_t* words, int count, const char* op, const Location& at);
int lane();

/// Something of the current thread's own, empty at first, that lives as long as its block.
std::shared_ptr<void>& thread_storage();

/// `bytes` of memory that the block's threads share, the same for all calls with one `site`. It starts as NaN.
void* shared_memory(const void* site, size_t bytes);
void* dynamic_shared_memory();

/// An error unless p is a multiple of `alignment`, as vector accesses and atomics need it.
inline void check_alignment(const void* p, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) [[unlikely]]
    fault("access to " + std::to_string(alignment) + " bytes at an address that is no multiple of that");
}

/// The order in which threads are resumed follows from this number: tests try several. At first it is 1, or WEFT_EMULATED_SEED of the
/// environment.
void set_seed(uint64_t seed);

// ---- device memory: one range of addresses that host code cannot touch --------------------------------------------------------------

/// There are two devices, each this thread's current one at times. Both have their memory in the one range.
inline constexpr int devices = 2;
int current_device();
void set_current_device(int device);

/// Memory of a device: 256-byte aligned, filled with NaN; nullptr when `capacity` is exhausted.
void* allocate(size_t bytes, int device);
/// False, and an error of the next kernel or copy, if p is no memory in use.
bool release(void* p);
size_t capacity();
size_t used();
/// For tests of running out of memory.
void set_capacity(size_t bytes);

bool is_device_address(const void* p);
/// Do all these bytes belong to one allocation of the device?
bool is_allocated(const void* p, size_t bytes, int device = current_device());
/// What was written beyond the end of an allocation since the last call; empty if nothing was. The address sanitizer finds that earlier.
std::string find_overrun();

/// A copy that happens when the device is next used, or when something waits for it. The number of such operations until now tells how far
/// to wait.
void copy_later(void* to, const void* from, size_t bytes);
uint64_t queue_position();
bool is_finished(uint64_t position);
void finish(uint64_t position);

/// While one lives, this process may read and write device memory: during kernels and copies.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace weft::emulated
