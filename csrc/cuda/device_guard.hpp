// What a binding needs around a launch: CUDA's error codes as exceptions, and the right device for the call.
#pragma once
#include <cuda_runtime_api.h>

#include <sstream>
#include <stdexcept>

namespace prunecca::cuda {

// RuntimeError in Python. `what` names the operation: "covariance_update: no kernel image is available ...".
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report this error again
  std::ostringstream text;
  text << what << " failed on the CUDA device: " << cudaGetErrorString(error);
  throw std::runtime_error(text.str());
}

// Makes `device` current until the end of the scope; costs nothing when it already is.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "choosing the device");
    if (device != before_) check(cudaSetDevice(device), "choosing the device");
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline cudaStream_t to_stream(uint64_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

}  // namespace prunecca::cuda
