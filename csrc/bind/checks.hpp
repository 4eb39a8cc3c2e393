// Checks of lists of arrays, shared by the bindings that take many tensors in one call.
#pragma once
#include <array>
#include <vector>

#include "bind/array_caster.hpp"
#include "check.hpp"

namespace prunecca {

using Arrays = std::vector<Array>;

// More than any machine has; each may take a stack and a part of the workspace.
constexpr int kMostThreads = 4096;

inline void check_threads(int threads) {
  PRUNECCA_CHECK(threads >= 1 && threads <= kMostThreads, "given ", threads, " threads; expected 1 to ", kMostThreads);
}

inline void check_same_length(size_t given, size_t expected, const char* what) {
  PRUNECCA_CHECK(given == expected, "given ", given, " ", what, " for ", expected, " tensors; expected one each");
}

inline bool same_memory_order(const Array& a, const Array& b) {
  if (a.ndim != b.ndim) return false;
  const bool empty = a.size() == 0;  // then strides mean nothing
  for (int d = 0; d < a.ndim; ++d)
    if (a.shape[d] != b.shape[d] || (!empty && a.shape[d] > 1 && a.strides[d] != b.strides[d])) return false;
  return true;
}

// Whether the elements fill their memory without gaps, in whatever order of dimensions (channels_last, say).
inline bool dense(const Array& a) {
  std::array<int, Array::kMaxDims> order{};
  int n = 0;
  for (int d = 0; d < a.ndim; ++d) {  // by stride, inserted one by one: GCC warns of std::sort on so few
    if (a.shape[d] == 1) continue;
    int i = n++;
    for (; i > 0 && a.strides[order[i - 1]] > a.strides[d]; --i) order[i] = order[i - 1];
    order[i] = d;
  }
  int64_t expected = 1;
  for (int i = 0; i < n; ++i) {
    if (a.strides[order[i]] != expected) return a.size() == 0;
    expected *= a.shape[order[i]];
  }
  return true;
}

inline void check_like(const Array& given, const Array& tensor, const char* what) {
  PRUNECCA_CHECK(given.device == tensor.device, "given a ", what, " on another device than its tensor; move it there");
  PRUNECCA_CHECK(same_memory_order(given, tensor), "given a ", what,
                 " whose shape or memory order is not its tensor's; expected the same shape and strides");
}

inline void check_mask(const Array& mask, const Array& tensor) {
  PRUNECCA_CHECK(mask.dtype == Dtype::boolean, "given a mask that is not boolean; expected dtype torch.bool");
  check_like(mask, tensor, "mask");
}

// The device all arrays share, -1 being the host.
inline int common_device(const Arrays& arrays) {
  for (const Array& a : arrays)
    PRUNECCA_CHECK(a.device == arrays.front().device, "given tensors on different devices; expected one device");
  return arrays.empty() ? -1 : arrays.front().device;
}

inline void only_host(int device) {
  PRUNECCA_CHECK(device < 0, "given tensors on CUDA device ", device,
                 ", but this build has no CUDA kernel for them; move them to the CPU or build with PRUNECCA_CUDA=ON");
}

}  // namespace prunecca
