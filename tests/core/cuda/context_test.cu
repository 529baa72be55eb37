// The device behind the kernels: its memory, copies through pinned memory, waiting, and what kernels complain about.
#include <thread>

#include "core/cuda/kernel_testing.h"
#include "weft/core/cuda/device.h"

using namespace weft;
using weft::cuda::Grid;
using weft::cuda::launch;
using weft::testing::DeviceArray;
using weft::testing::error_of;
using weft::testing::expected;
using weft::testing::has;

namespace {

__global__ void add_one(int* x, int64_t n) {
  for (int64_t i = cuda::grid_start(); i < n; i += cuda::grid_stride()) x[i] += 1;
}

__global__ void complain(cuda::Complaint* complaint, int32_t site, int64_t index) {
  if (threadIdx.x == 7) {
    complaint->index = index;
    complaint->site = site;
  }
}

bool works() {
  DeviceArray<int> x(100, 4);
  launch(add_one, Grid(1), 32, 0, x.data(), int64_t{100});
  return x.values() == std::vector<int>(100, 5);
}

constexpr int64_t megabyte = int64_t{1} << 20;

// Numbers that tell which copy they belong to.
std::vector<int> numbers(int64_t bytes, int copy) {
  return expected<int>(bytes / 4, [=](int i) { return 1000003 * copy + i; });
}

}  // namespace

TEST_CASE("cuda: running out of memory is an error that tells the numbers, and nothing is lost") {
  const int64_t before = bytes_in_use(Device::cuda());
  const Tensor x = ones({1000}, {.dtype = DType::float32, .device = Device::cuda()});
  const std::string error = error_of([] { allocate(int64_t{1} << 50, Device::cuda()); });
  CHECK(has(error, format("allocate: out of memory on cuda:0: asked for 1125899906842624 bytes, {} in use by tensors, ", before + 4000)));
  CHECK(has(error, "free"));
  CHECK(bytes_in_use(Device::cuda()) == before + 4000);
  CHECK(works());
}

namespace weft {
WEFT_KERNEL(void refused(const Tensor& x))
void cpu::refused(const Tensor&) {}
void cuda::refused(const Tensor&) { cuda::check(cudaErrorInvalidValue, "refused"); }
}  // namespace weft

TEST_CASE("cuda: what CUDA reports comes with the op and a shape") {
  const Tensor x = zeros({2, 3}, {.device = Device::cuda()});
  const std::string error = error_of([&] { WEFT_LAUNCH(x, refused(x)); });
  CHECK(has(error, format("refused: CUDA error {}: ", static_cast<int>(cudaErrorInvalidValue))));
  CHECK(has(error, "; in refused(x) for float32 [2, 3]"));
  CHECK_THROWS_AS(allocate(int64_t{1} << 50, Device::cuda()), OutOfMemory);
  CHECK(has(error_of([] { empty({1 << 20, 1 << 20}, {.device = Device::cuda()}); }), "empty: no memory for float32 [1048576, 1048576]: "));
}

#ifdef WEFT_CUDA_EMULATED
TEST_CASE("emulation: a device that is full") {
  const size_t capacity = emulated::capacity();
  emulated::set_capacity(emulated::used() + 2 * static_cast<size_t>(megabyte));
  {
    const Tensor x = empty({megabyte + 3}, {.dtype = DType::boolean, .device = Device::cuda()});
    const std::string error = error_of([] { empty({megabyte}, {.dtype = DType::boolean, .device = Device::cuda()}); });
    CHECK(has(error, "asked for 1048576 bytes, "));
    CHECK(has(error, format(" in use by tensors, {} of {} free", megabyte - 3, static_cast<int64_t>(emulated::capacity()))));
    CHECK(works());
  }
  const Tensor x = empty({2 * megabyte}, {.dtype = DType::boolean, .device = Device::cuda()});  // what was freed is there again
  emulated::set_capacity(capacity);
}
#endif

TEST_CASE("cuda: bytes in use and their peak") {
  const Device device = Device::cuda();
  const int64_t before = bytes_in_use(device);
  reset_peak_bytes(device);
  {
    const Tensor x = empty({33}, {.dtype = DType::float32, .device = device});
    { const Tensor y = empty({1000}, {.dtype = DType::float64, .device = device}); }
    CHECK(bytes_in_use(device) == before + 132);
    CHECK(peak_bytes(device) == before + 132 + 8000);
    reset_peak_bytes(device);
    CHECK(peak_bytes(device) == before + 132);
  }
  CHECK(bytes_in_use(device) == before);
  release_cached_memory(device);
  CHECK(works());
}

TEST_CASE("cuda: copies larger than the ring of pinned memory") {
  for (int64_t bytes : {4 * megabyte + 4, 32 * megabyte, 80 * megabyte + 20}) {
    const std::vector<int> from = numbers(bytes, 1);
    CHECK(DeviceArray<int>(from).values() == from);
  }
}

TEST_CASE("cuda: many copies on their way at once, from memory that is reused") {
  // Sizes that leave something at the end of the ring when it begins anew.
  const std::vector<int64_t> sizes = {8, 8, 8, 2, 6, 8, 8, 8, 1, 8, 3, 5, 8, 8, 7, 8, 1};
  const int rounds = 2;
  std::vector<void*> to;
  for (int round = 0; round < rounds; ++round) {
    for (int64_t size : sizes) to.push_back(allocate(size * megabyte, Device::cuda()));
  }
  synchronize(Device::cuda());
  std::vector<int> from;
  for (size_t i = 0; i < to.size(); ++i) {
    const int64_t bytes = sizes[i % sizes.size()] * megabyte;
    from = numbers(bytes, static_cast<int>(i));
    copy_bytes(to[i], Device::cuda(), from.data(), Device::cpu(), bytes);
    std::fill(from.begin(), from.end(), -1);
  }
  for (size_t i = 0; i < to.size(); ++i) {
    INFO("copy ", i);
    const int64_t bytes = sizes[i % sizes.size()] * megabyte;
    std::vector<int> got(static_cast<size_t>(bytes / 4));
    copy_bytes(got.data(), Device::cpu(), to[i], Device::cuda(), bytes);
    CHECK(got == numbers(bytes, static_cast<int>(i)));
    release(to[i], bytes, Device::cuda());
  }
}

TEST_CASE("cuda: copies of several threads") {
  std::vector<int> wrong(4);
  std::vector<std::thread> hosts;
  for (size_t host = 0; host < wrong.size(); ++host) {
    hosts.emplace_back([&, host] {
      for (int i = 0; i < 20; ++i) {
        const std::vector<int> from = numbers(4 * (1 + 30011 * i), static_cast<int>(host) + 10 * i);
        if (DeviceArray<int>(from).values() != from) ++wrong[host];
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("cuda: copies between tensors of the device, and of nothing") {
  const std::vector<int> from = numbers(4000, 2);
  DeviceArray<int> x(from), y(1000);
  copy_bytes(y.data(), Device::cuda(), x.data(), Device::cuda(), 4000);
  CHECK(y.values() == from);
  copy_bytes(nullptr, Device::cuda(), nullptr, Device::cpu(), 0);
}

TEST_CASE("cuda: only reading waits for the device") {
  const int64_t before = cuda::synchronization_count();
  DeviceArray<int> x(100), y(100);
  launch(add_one, Grid(1), 32, 0, x.data(), int64_t{100});
  copy_bytes(y.data(), Device::cuda(), x.data(), Device::cuda(), 400);
  CHECK(cuda::synchronization_count() == before);
  CHECK(y.values() == std::vector<int>(100, 1));
  CHECK(cuda::synchronization_count() == before + 1);
  synchronize(Device::cuda());
  CHECK(cuda::synchronization_count() == before + 2);
  CHECK(cuda::time_ms([&] { launch(add_one, Grid(1), 32, 0, x.data(), int64_t{100}); }, 0) >= 0);
}

TEST_CASE("cuda: what a kernel complains about is the error of the next wait") {
  const int32_t site = cuda::complaint_site("test: index {} is out of range"), other = cuda::complaint_site("test: {} is negative");
  CHECK(site != other);
  CHECK(cuda::complaint_site("test: index {} is out of range") == site);
  launch(complain, Grid(2), 32, 0, cuda::complaint(), site, int64_t{1} << 40);
  CHECK(error_of([] { synchronize(Device::cuda()); }) == "test: index 1099511627776 is out of range");
  CHECK(error_of([] { synchronize(Device::cuda()); }).empty());
  launch(complain, Grid(1), 32, 0, cuda::complaint(), other, int64_t{-5});
  CHECK(error_of([] { works(); }) == "test: -5 is negative");  // reading waits
  CHECK(works());
}

TEST_CASE("cuda: a launch that is refused is an error, and the next one works") {
  DeviceArray<int> x(100);
  CHECK(!error_of([&] { launch(add_one, Grid(1), 2000, 0, x.data(), int64_t{100}); }).empty());
  CHECK(has(error_of([] { Grid(1, 70000); }), "a grid of 1 x 70000 x 1 blocks is too large"));
  CHECK(works());
}

TEST_CASE("cuda: devices by number") {
  CHECK(has(device_description(Device::cuda()), "multiprocessors, "));
  CHECK(has(error_of([] { allocate(1, Device::cuda(99)); }), "cuda:99: this machine has "));
  CHECK(has(error_of([] { parse_device("cuda:99"); }), "\"cuda:99\" does not exist"));
  const cuda::DeviceScope scope(0);
  CHECK(works());
}

TEST_CASE("cuda: a second device beside the first") {
  if (cuda_device_count() < 2) return;
  const Device second = Device::cuda(1);
  const int64_t before = bytes_in_use(second);
  {
    const Tensor x = to(arange(1000), DType::float32), y = to(x, second), z = to(to(y, Device::cuda(0)), second);
    Tensor sum = empty_like(y);
    WEFT_LAUNCH(sum, add(sum, y, z));
    CHECK(sum.device() == second);
    CHECK(bytes_in_use(second) == before + 3 * 4000);
    for (int64_t i : {0, 999}) CHECK(to_host(sum).data<float>()[i] == static_cast<float>(2 * i));
    Tensor one = empty({1, 2}, {.dtype = DType::float32, .device = second});
    const Tensor table = zeros({5, 2}, one.options()), wrong = to(from_vector<int64_t>({7}, {1}), second);
    WEFT_LAUNCH(one, check_range(wrong, 5, "test: index {} of a table, at {}"));
    CHECK(error_of([] { synchronize(Device::cuda(0)); }).empty());
    CHECK(error_of([&] { synchronize(second); }) == "test: index 7 of a table, at 0");
  }
  CHECK(bytes_in_use(second) == before);
  CHECK(works());
}
