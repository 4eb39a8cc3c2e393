// Array: the only type that crosses the line from Python. It borrows memory; nothing here owns any.
#pragma once
#include <array>
#include <cstdint>

namespace prunecca {

enum class Dtype : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3, boolean = 4, int64 = 5, uint8 = 6 };

constexpr int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return 4;
    case Dtype::float64: return 8;
    case Dtype::float16:
    case Dtype::bfloat16: return 2;
    case Dtype::boolean:
    case Dtype::uint8: return 1;
    case Dtype::int64: return 8;
  }
  return 0;
}

struct Array {
  static constexpr int kMaxDims = 8;
  void* data = nullptr;
  int ndim = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> strides{};  // in elements
  Dtype dtype = Dtype::float32;
  int device = -1;  // -1: host; otherwise the index of the CUDA device

  int64_t size() const {
    int64_t n = 1;
    for (int d = 0; d < ndim; ++d) n *= shape[d];
    return n;
  }
  bool on_host() const { return device < 0; }
  bool contiguous() const {
    if (size() == 0) return true;  // there is nothing to lie in order
    int64_t expected = 1;
    for (int d = ndim - 1; d >= 0; --d) {
      if (shape[d] != 1 && strides[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }
  template <class T> T* as() const { return static_cast<T*>(data); }
};

}  // namespace prunecca
