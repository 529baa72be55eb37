// Checks of indices that wait for nothing: a kernel reads them all and writes the first wrong one where the host finds it when it next
// waits for the device (context.h).
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {
namespace {

// What is known of some of the indices.
struct Findings {
  int64_t first_wrong = std::numeric_limits<int64_t>::max();  // its place
  int64_t count = 0;                                          // that are not ignored
};

struct Indices {
  const int64_t* index;
  int64_t size;
  bool ignores;
  int64_t ignored;
  __device__ void find(int64_t i, Findings& findings) const {
    const int64_t at = index[i];
    if (ignores && at == ignored) return;
    ++findings.count;
    if ((at < 0 || at >= size) && i < findings.first_wrong) findings.first_wrong = i;
  }
};

struct Parts {
  const Findings* parts;
  __device__ void find(int64_t i, Findings& findings) const {
    findings.first_wrong = std::min(findings.first_wrong, parts[i].first_wrong);
    findings.count += parts[i].count;
  }
};

struct StorePart {
  Findings* parts;
  __device__ void operator()(const Findings& findings) const { parts[blockIdx.x] = findings; }
};

struct Report {
  Complaint* complaint;
  int32_t site;
  const int64_t* index;
  void* share;  // 1 / count, if it is wanted
  bool share_is_double;
  __device__ void operator()(const Findings& findings) const {
    if (share != nullptr) {
      const double part = 1 / static_cast<double>(findings.count);
      if (share_is_double) {
        *static_cast<double*>(share) = part;
      } else {
        *static_cast<float*>(share) = static_cast<float>(part);
      }
    }
    volatile Complaint* const out = complaint;
    if (findings.first_wrong == std::numeric_limits<int64_t>::max() || out->site != 0) return;  // an earlier one comes first
    out->place = findings.first_wrong;
    out->index = index[findings.first_wrong];
    __threadfence_system();
    out->site = site;
  }
};

constexpr int find_threads = 1024;

template <class Source, class Sink>
__global__ void __launch_bounds__(find_threads) find_kernel(Source source, int64_t n, Sink sink) {
  Findings own;
  for (int64_t i = grid_start(); i < n; i += grid_stride()) source.find(i, own);
  own.first_wrong = block_reduce(own.first_wrong, Smallest(), std::numeric_limits<int64_t>::max());
  own.count = block_reduce(own.count, Add(), int64_t{0});
  if (threadIdx.x == 0) sink(own);
}

void find_wrong(const Indices& indices, int64_t n, const Report& report) {
  constexpr int64_t one_block = 1 << 14;  // indices that are no work for more
  constexpr int threads = find_threads;
  if (n <= one_block) return launch(find_kernel<Indices, Report>, 1, threads, 0, indices, n, report);
  const Grid grid = grid_over(n, threads);
  const int64_t blocks = grid.size.x;
  const Tensor workspace = empty({blocks * 2}, {.dtype = DType::int64, .device = Device::cuda(context().index)});
  auto* parts = static_cast<Findings*>(workspace.raw());
  launch(find_kernel<Indices, StorePart>, grid, threads, 0, indices, n, StorePart{parts});
  launch(find_kernel<Parts, Report>, 1, threads, 0, Parts{parts}, blocks, report);
}

}  // namespace

void check_range(const Tensor& index, int64_t size, const std::string& message) {
  if (index.numel() == 0) return;
  const auto* at = index.data<int64_t>();
  find_wrong({at, size, false, 0}, index.numel(), {complaint(), complaint_site(message), at, nullptr, false});
}

void check_range(const Tensor& index, int64_t size, const char* op, const std::string& of) {
  check_range(index, size, format("{}: index {} is out of range [0, {}) of {}", op, "{}", size, of));
}

void target_share(Tensor& share, const Tensor& targets, int64_t classes, int64_t ignore_index, const std::string& message) {
  const auto* at = targets.data<int64_t>();
  find_wrong({at, classes, true, ignore_index}, targets.numel(),
             {complaint(), complaint_site(message), at, share.raw(), share.dtype() == DType::float64});
}

}  // namespace weft::cuda
