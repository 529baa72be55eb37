// What the emulation finds that a GPU would not: kernels with one planted bug each, beside the same kernel without it.
#ifdef WEFT_CUDA_EMULATED

#include <deque>
#include <set>
#include <thread>

#include "core/cuda/kernel_testing.h"

using namespace weft;
using weft::cuda::all_lanes;
using weft::cuda::Grid;
using weft::cuda::launch;
using weft::testing::DeviceArray;
using weft::testing::error_of;
using weft::testing::expected;
using weft::testing::has;
using weft::testing::last_words;

namespace {

#ifdef WEFT_SANITIZED
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

constexpr int threads = 96;  // three warps

int thread() { return static_cast<int>(threadIdx.x); }

// The first `seeds` orders of threads, then the default again.
template <class F>
void for_seeds(int seeds, F f) {
  for (int seed = 1; seed <= seeds; ++seed) {
    emulated::set_seed(static_cast<uint64_t>(seed));
    f();
  }
  emulated::set_seed(1);
}

// Outputs of a kernel(float*), on one block.
std::vector<float> outputs(void (*kernel)(float*)) {
  DeviceArray<float> out(threads);
  launch(kernel, Grid(1), threads, 0, out.data());
  return out.values();
}

// In how many of ten orders does the kernel compute what it should?
int times_right(void (*kernel)(float*), const std::vector<float>& right) {
  int count = 0;
  for_seeds(10, [&] { count += outputs(kernel) == right ? 1 : 0; });
  return count;
}

std::string error_of_launch(void (*kernel)(float*), int block = threads) {
  return error_of([&] {
    DeviceArray<float> out(threads);
    launch(kernel, Grid(2), block, 0, out.data());
  });
}

}  // namespace

// ---- races -----------------------------------------------------------------------------------------------------------------------------

namespace {

template <bool is_right>
__global__ void reverse(float* out) {
  WEFT_SHARED(float, x, threads);
  x[thread()] = static_cast<float>(thread());
  if (is_right) __syncthreads();
  out[thread()] = x[threads - 1 - thread()];
}

// The second barrier is the one that is easily forgotten: x is still being read.
template <bool is_right>
__global__ void rotate_twice(float* out) {
  WEFT_SHARED(float, x, threads);
  x[thread()] = static_cast<float>(thread());
  for (int turn = 0; turn < 2; ++turn) {
    __syncthreads();
    const float got = x[(thread() + 1) % threads];
    if (is_right) __syncthreads();
    x[thread()] = got;
  }
  out[thread()] = x[thread()];
}

template <bool is_right>
__global__ void neighbour_in_warp(float* out) {
  WEFT_SHARED(float, x, threads);
  x[thread()] = static_cast<float>(thread());
  if (is_right) __syncwarp();
  out[thread()] = x[thread() ^ 1];
}

// Every thread adds, but not by an atomic: threads that wait in between lose what others wrote.
template <bool is_right>
__global__ void add_up(float* out) {
  WEFT_SHARED(float, sum, 1);
  if (thread() == 0) *sum = 0;
  __syncthreads();
  if (is_right) {
    atomicAdd(sum, 1.0F);
    __syncwarp();
  } else {
    const float before = *sum;
    __syncwarp();
    *sum = before + 1;
  }
  __syncthreads();
  out[thread()] = *sum;
}

__global__ void read_unwritten(float* out) {
  WEFT_SHARED(float, x, threads);
  if (thread() != 5) x[thread()] = 1;
  __syncthreads();
  out[thread()] = x[thread()];
}

}  // namespace

TEST_CASE("emulation: a missing block barrier shows") {
  const auto reversed = expected<float>(threads, [](int t) { return threads - 1 - t; });
  CHECK(times_right(reverse<true>, reversed) == 10);
  CHECK(times_right(reverse<false>, reversed) == 0);
  const auto rotated = expected<float>(threads, [](int t) { return (t + 2) % threads; });
  CHECK(times_right(rotate_twice<true>, rotated) == 10);
  CHECK(times_right(rotate_twice<false>, rotated) == 0);
}

TEST_CASE("emulation: a missing warp barrier shows") {
  const auto neighbours = expected<float>(threads, [](int t) { return t ^ 1; });
  CHECK(times_right(neighbour_in_warp<true>, neighbours) == 10);
  CHECK(times_right(neighbour_in_warp<false>, neighbours) == 0);
}

TEST_CASE("emulation: an addition that is not atomic shows") {
  const std::vector<float> right(threads, threads);
  CHECK(times_right(add_up<true>, right) == 10);
  CHECK(times_right(add_up<false>, right) == 0);
}

TEST_CASE("emulation: shared memory starts as NaN, in every block") {
  DeviceArray<float> out(threads);
  launch(read_unwritten, Grid(3), threads, 0, out.data());
  const std::vector<float> values = out.values();
  for (int t = 0; t < threads; ++t) CHECK(std::isnan(values[static_cast<size_t>(t)]) == (t == 5));
}

// ---- barriers and warp operations that not all reach -----------------------------------------------------------------------------------

namespace {

__global__ void barrier_in_branch(float* out) {
  if (thread() < 64) __syncthreads();
  out[thread()] = 0;
}

__global__ void two_barriers(float* out) {
  if (thread() < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[thread()] = 0;
}

__global__ void early_return(float* out) {
  if (thread() == 70) return;
  __syncthreads();
  out[thread()] = 0;
}

__global__ void shuffle_after_return(float* out) {
  if (thread() == 33) return;
  out[thread()] = __shfl_xor_sync(all_lanes, 1.0F, 1);
}

__global__ void shuffle_in_branch(float* out) {
  if (thread() % 32 < 16) out[thread()] = __shfl_xor_sync(all_lanes, 1.0F, 1);
  __syncthreads();
}

__global__ void two_shuffles(float* out) {
  if (thread() % 32 < 16) {
    out[thread()] = __shfl_xor_sync(all_lanes, 1.0F, 1);
  } else {
    out[thread()] = __shfl_down_sync(all_lanes, 1.0F, 1);
  }
}

__global__ void wrong_mask(float* out) {
  if (thread() % 32 < 16) out[thread()] = __shfl_xor_sync(0xffff0000U, 1.0F, 1);
}

__global__ void lane_outside_mask(float* out) {
  if (thread() % 32 < 16) out[thread()] = __shfl_sync(0xffffU, 1.0F, 16);
}

__global__ void part_of_a_warp(float* out) { out[thread()] = __shfl_xor_sync(all_lanes, 1.0F, 1); }

__global__ void strange_width(float* out) { out[thread()] = __shfl_xor_sync(all_lanes, 1.0F, 1, 12); }

__global__ void strange_distance(float* out) { out[thread()] = __shfl_down_sync(all_lanes, 1.0F, 32); }

}  // namespace

TEST_CASE("emulation: a barrier that not all threads reach is an error") {
  for_seeds(5, [] {
    CHECK(has(error_of_launch(barrier_in_branch), "__syncthreads at emulation_test.cu:"));
    CHECK(has(error_of_launch(two_barriers), "waits in __syncthreads at emulation_test.cu:"));
    const std::string error = error_of_launch(early_return);
    CHECK(has(error, "thread (70, 0, 0)"));
    CHECK(has(error, "has returned"));
  });
}

TEST_CASE("emulation: a warp operation that not all lanes reach is an error") {
  for_seeds(5, [] {
    CHECK(has(error_of_launch(shuffle_after_return), "has returned"));
    CHECK(has(error_of_launch(shuffle_in_branch), "waits in __syncthreads at"));
    CHECK(has(error_of_launch(two_shuffles), "meets lane"));
    CHECK(has(error_of_launch(wrong_mask), "with a mask that does not name the lane itself"));
    CHECK(has(error_of_launch(lane_outside_mask), "__shfl_sync from lane 16, which its mask does not name"));
    CHECK(has(error_of_launch(part_of_a_warp, 48), "names a lane that the block does not have, 16"));
  });
  CHECK(has(error_of_launch(strange_width), "no power of two"));
  CHECK(has(error_of_launch(strange_distance), "over 32 lanes"));
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------------

namespace {

template <int offset>
__global__ void write_shared(float* out) {
  WEFT_SHARED(float, x, threads);
  WEFT_SHARED(float, y, threads);
  x[thread() + offset] = 1;
  y[thread()] = 2;
  out[thread()] = x[thread()] + y[thread()];
}

template <int offset>
__global__ void write_dynamic_shared(float* out) {
  WEFT_DYNAMIC_SHARED(float, x);
  x[thread() + offset] = 1;
  out[thread()] = x[thread()];
}

__global__ void shift(float* to, const float* from, int by) { to[thread() + by] = from[thread()]; }

__global__ void read_pack(float* to, const float* from) { cuda::store_pack<4>(to, cuda::load_pack<4>(from)); }

struct Hidden {  // in a struct, a pointer is not checked at the launch
  const float* p;
};
__global__ void read_through(float* to, Hidden from) { to[thread()] = from.p[thread()]; }

__global__ void count_unaligned(char* p) { atomicAdd(reinterpret_cast<int*>(p), 1); }

}  // namespace

TEST_CASE("emulation: shared memory out of bounds (under the address sanitizer)") {
  CHECK(outputs(write_shared<0>) == std::vector<float>(threads, 3));
  if (!sanitized) return;
  CHECK(has(last_words([] { outputs(write_shared<1>); }), "heap-buffer-overflow"));
  CHECK(has(last_words([] { outputs(write_shared<1>); }), "in block (0, 0, 0), thread (95, 0, 0) of the kernel launched by"));
  CHECK(has(last_words([] { outputs(write_shared<-1>); }), "heap-buffer-overflow"));
  CHECK(has(last_words([] {
              DeviceArray<float> out(threads);
              launch(write_dynamic_shared<1>, Grid(1), threads, threads * sizeof(float), out.data());
            }),
            "heap-buffer-overflow"));
}

TEST_CASE("emulation: a write beyond an allocation is an error") {
  const auto shift_by = [](int by) {
    DeviceArray<float> to(threads), from(threads, 1.0F);
    launch(shift, Grid(1), threads, 0, to.data(), from.data(), by);
  };
  CHECK(error_of([&] { shift_by(0); }).empty());
  if (sanitized) {
    CHECK(has(last_words([&] { shift_by(1); }), "use-after-poison"));
    CHECK(has(last_words([&] { shift_by(1); }), "thread (95, 0, 0) of the kernel launched by DOCTEST_ANON_FUNC"));
  } else {
    CHECK(has(error_of([&] { shift_by(1); }), "a thread wrote up to 4 bytes beyond the end of an allocation of 384 bytes"));
    CHECK(error_of([&] { shift_by(0); }).empty());
    // Among many tensors it takes a few kernels until each has been looked at.
    std::deque<DeviceArray<float>> others;
    for (int i = 0; i < 3000; ++i) others.emplace_back(threads);
    DeviceArray<float> to(threads), from(threads, 1.0F);
    std::string error = error_of([&] { launch(shift, Grid(1), threads, 0, to.data(), from.data(), 1); });
    for (int i = 0; i < 3 && error.empty(); ++i) {
      error = error_of([&] { launch(shift, Grid(1), threads, 0, to.data(), from.data(), 0); });
    }
    CHECK(has(error, "wrote up to 4 bytes beyond the end of an allocation of 384 bytes, or an earlier kernel did (of 3"));
  }
}

TEST_CASE("emulation: device memory starts as NaN, and is NaN again when freed") {
  DeviceArray<float> to(threads);
  const float* p = nullptr;
  {
    const Tensor x = empty({threads}, {.dtype = DType::float32, .device = Device::cuda()});
    p = x.data<float>();
    launch(shift, Grid(1), threads, 0, to.data(), p, 0);
    for (float value : to.values()) CHECK(std::isnan(value));
    copy_bytes(x.raw(), Device::cuda(), std::vector<float>(threads, 1).data(), Device::cpu(), x.bytes());
  }
  if (sanitized) {
    CHECK(has(last_words([&] { launch(read_through, Grid(1), threads, 0, to.data(), Hidden{p}); }), "use-after-poison"));
  } else {
    launch(read_through, Grid(1), threads, 0, to.data(), Hidden{p});
    for (float value : to.values()) CHECK(std::isnan(value));
  }
}

TEST_CASE("emulation: misaligned vector accesses and atomics are errors") {
  DeviceArray<float> to(8), from(8, 3.0F);
  launch(read_pack, Grid(1), 1, 0, to.data(), from.data() + 4);
  CHECK(has(error_of([&] { launch(read_pack, Grid(1), 1, 0, to.data(), from.data() + 1); }),
            "access to 16 bytes at an address that is no multiple of that, in block (0, 0, 0), thread (0, 0, 0)"));
  CHECK(has(error_of([&] { launch(read_pack, Grid(1), 1, 0, to.data() + 2, from.data()); }), "access to 16 bytes"));
  CHECK(has(error_of([&] { launch(count_unaligned, Grid(1), 1, 0, reinterpret_cast<char*>(to.data()) + 1); }), "access to 4 bytes"));
}

TEST_CASE("emulation: the host cannot touch device memory") {
  const Tensor x = ones({4}, {.dtype = DType::float32, .device = Device::cuda()});
  const auto* p = static_cast<const volatile float*>(x.raw());
  CHECK(has(last_words([&] { static_cast<void>(*p); }), "it died"));
  CHECK(has(last_words([&] { *const_cast<volatile float*>(p) = 1; }), "it died"));
  CHECK(last_words([] {}).empty());
}

TEST_CASE("emulation: kernels are given no pointers to host memory, nor to freed memory") {
  std::vector<float> host(threads);
  DeviceArray<float> to(threads);
  CHECK(has(error_of([&] { launch(shift, Grid(1), threads, 0, to.data(), host.data(), 0); }),
            "neither memory in use of its device nor pinned"));
  float* freed = DeviceArray<float>(threads).data();
  CHECK(has(error_of([&] { launch(shift, Grid(1), threads, 0, to.data(), freed, 0); }), "neither memory in use of its device nor pinned"));
  void* other = allocate(threads * 4, Device::cuda(1));
  CHECK(has(error_of([&] { launch(shift, Grid(1), threads, 0, to.data(), static_cast<float*>(other), 0); }), "in use of its device"));
  release(other, threads * 4, Device::cuda(1));
  void* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, threads * sizeof(float)) == cudaSuccess);
  std::fill_n(static_cast<float*>(pinned), threads, 6.0F);
  launch(shift, Grid(1), threads, 0, to.data(), static_cast<const float*>(pinned), 0);
  CHECK(to.values() == std::vector<float>(threads, 6.0F));
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
  CHECK(cudaFreeHost(pinned) != cudaSuccess);
}

TEST_CASE("emulation: copies stay within allocations and go where they say") {
  DeviceArray<float> x(4);
  std::vector<float> host(8);
  const auto copy = [](void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  };
  CHECK(copy(x.data(), host.data(), 16, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(copy(x.data(), host.data(), 17, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), x.data() + 1, 16, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), x.data(), 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), x.data(), 16, cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaMemsetAsync(x.data(), 0, 16, nullptr) == cudaSuccess);
  CHECK(cudaMemsetAsync(x.data(), 0, 17, nullptr) == cudaErrorInvalidValue);
}

TEST_CASE("emulation: memory that is freed twice is reported by what comes next") {
  void* p = nullptr;
  REQUIRE(cudaMallocAsync(&p, 100, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(p, nullptr) == cudaErrorInvalidValue);
  CHECK(has(error_of([] { outputs(reverse<true>); }), "free of a pointer that is no device memory in use"));
  CHECK(error_of([] { outputs(reverse<true>); }).empty());
}

// ---- launches --------------------------------------------------------------------------------------------------------------------------

namespace {

int alive = 0;
struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};

__global__ void fail_in_the_middle(int bad_thread) {
  const Counted counted;
  __syncthreads();
  WEFT_CHECK(thread() != bad_thread || blockIdx.x != 1, "thread {} is bad", bad_thread);
  __syncwarp();
  __syncthreads();
}

template <class T>
void launcher(int bad_thread) {
  launch(fail_in_the_middle, Grid(3), threads, 0, bad_thread);
}
std::vector<int> launcher_by_lambda(int bad_thread) {
  [&]<class T>(T) { launch(fail_in_the_middle, Grid(3), threads, 0, bad_thread); }(1.5);
  return {};
}

__global__ void note_order(int* order) { order[1 + atomicAdd(order, 1)] = thread(); }
__global__ void note_blocks(int* order) { order[1 + atomicAdd(order, 1)] = static_cast<int>(blockIdx.x); }

std::vector<int> order_of(void (*kernel)(int*), int blocks, int block_threads) {
  DeviceArray<int> order(1 + blocks * block_threads);
  launch(kernel, Grid(blocks), block_threads, 0, order.data());
  const std::vector<int> values = order.values();
  return {values.begin() + 1, values.end()};
}

__global__ void some_shared(float* out) {
  WEFT_SHARED(float, fixed, 5120);
  WEFT_DYNAMIC_SHARED(float, more);
  fixed[threadIdx.x] = 2;
  more[threadIdx.x] = fixed[threadIdx.x];
  out[threadIdx.x] = more[threadIdx.x];
}
__global__ void much_shared(float* out) {
  WEFT_SHARED(double, x, 6145);
  out[thread()] = static_cast<float>(x[0]);
}

}  // namespace

TEST_CASE("emulation: errors name the launch, the block and the thread, and end every thread") {
  for (int bad_thread : {0, 50, threads - 1}) {
    const std::string place =
        format("emulated CUDA: thread {} is bad, in block (1, 0, 0), thread ({}, 0, 0) of the kernel launched by ", bad_thread, bad_thread);
    CHECK(has(error_of([&] { launcher<float>(bad_thread); }), place + "launcher [T = float] at emulation_test.cu:"));
    CHECK(alive == 0);
    CHECK(has(error_of([&] { launcher_by_lambda(bad_thread); }), place + "launcher_by_lambda [T = double] at emulation_test.cu:"));
    CHECK(error_of([] { launcher<float>(-1); }).empty());
    CHECK(alive == 0);
  }
}

TEST_CASE("emulation: every seed has its order of threads, and of blocks") {
  std::set<std::vector<int>> orders, again;
  for_seeds(10, [&] { orders.insert(order_of(note_order, 1, threads)); });
  for_seeds(10, [&] { again.insert(order_of(note_order, 1, threads)); });
  CHECK(orders.size() == 10);
  CHECK(orders == again);
  for (std::vector<int> order : orders) {
    std::sort(order.begin(), order.end());
    CHECK(order == expected<int>(threads, [](int t) { return t; }));
  }
  std::set<std::vector<int>> orders_of_blocks;
  for_seeds(10, [&] { orders_of_blocks.insert(order_of(note_blocks, 7, 1)); });
  CHECK(orders_of_blocks.size() > 3);
}

TEST_CASE("emulation: launches that a GPU would refuse are errors") {
  CHECK(has(error_of_launch(reverse<true>, 1025), "a block of 1025 threads, not 1 to 1024; kernel launched by"));
  CHECK(has(error_of_launch(reverse<true>, 0), "a block of 0 threads"));
  CHECK(has(error_of_launch(much_shared), "shared arrays of 49160 bytes, more than 49152"));
  DeviceArray<float> out(threads);
  const auto with_some = [&](size_t bytes) { return error_of([&] { launch(some_shared, Grid(1), threads, bytes, out.data()); }); };
  CHECK(with_some(28 << 10).empty());
  CHECK(has(with_some(32 << 10), "53248 bytes of shared memory, more than the 49152 that a kernel has without asking for more"));
  CHECK(with_some(40 << 10).empty());
  CHECK(has(error_of([&] { launch(reverse<true>, Grid(1), threads, (227 << 10) + 1, out.data()); }), "bytes of shared memory, more than"));
  CHECK(has(error_of([&] { launch(reverse<true>, Grid(1), threads, 227 << 10, out.data()); }), "bytes of shared memory, more than"));
  CHECK(error_of([&] { launch(reverse<true>, Grid(1), threads, 200 << 10, out.data()); }).empty());
}

TEST_CASE("emulation: device code outside a kernel is an error") {
  CHECK(has(error_of([] { thread(); }), "outside a kernel"));
}

TEST_CASE("emulation: blocks of three dimensions") {
  std::set<std::vector<unsigned>> seen;
  emulated::run(
      [&] {
        CHECK(blockDim.x == 3);
        CHECK(gridDim.z == 2);
        seen.insert({blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z});
      },
      dim3(3, 1, 2), dim3(3, 4, 5), 0, std::source_location::current());
  CHECK(seen.size() == 6 * 60);
  CHECK(*seen.rbegin() == std::vector<unsigned>{2, 0, 1, 2, 3, 4});
}

TEST_CASE("emulation: several host threads launch kernels") {
  std::vector<int> wrong(4);
  std::vector<std::thread> hosts;
  for (size_t host = 0; host < wrong.size(); ++host) {
    hosts.emplace_back([&, host] {
      const auto right = expected<float>(threads, [](int t) { return threads - 1 - t; });
      for (int i = 0; i < 50; ++i) {
        if (outputs(reverse<true>) != right) ++wrong[host];
        if (i % 10 == 0 && error_of_launch(early_return).empty()) ++wrong[host];
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  CHECK(wrong == std::vector<int>(4));
}

#endif
