// One context per device: stream, cuBLAS handle, memory. For .cu files only.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace weft::cuda {

struct Context {
  int index = 0;
  cudaStream_t stream = nullptr;  // all work of the device: memory can be reused without waiting
  cublasHandle_t blas = nullptr;
  cublasLtHandle_t blas_lt = nullptr;
  int processors = 1;    // multiprocessors
  int shared_bytes = 0;  // shared memory that a block may ask for
};

/// Of the device that the innermost DeviceScope of this thread names. Made at the first use.
Context& context();

/// Throws a DeviceError with CUDA's text unless all is well. `what` names the op or the call.
void check(cudaError_t error, std::string_view what);
void check(cublasStatus_t status, std::string_view what);

/// Where kernels write that an index was out of range, in host memory that the device sees. The next wait for the device reports it.
struct Complaint {
  int32_t site;  // 0: none
  int64_t index, place;
};
/// The place of this device, and a number for `message`, a text in which {} and {} become the index and its place. Messages are kept: there
/// should be one for an op and shape, not for a call.
Complaint* complaint();
int32_t complaint_site(const std::string& message);

}  // namespace weft::cuda
