// tests/cuda/emulated/harness.hpp for a device: the emulation's own test programs, compiled by nvcc against this file,
// run the same requests on a GPU. Each array is a cudaMalloc of exactly its size, so that a memory checker sees the
// first byte beyond it; no framework is loaded, so that a checker needs seconds.
//
// PRUNECCA_REQUESTS=FILE   requests are read from there instead of standard input, and nothing is replied; one that a
//                          launcher refuses, as tests ask of it, is counted and left
// PRUNECCA_RECORD=FILE     requests are appended there before they are run, each but once
// PRUNECCA_UNWRITTEN=1     memory of a kernel's own is left as it is, for a checker that looks for reads of such
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/platform.cuh"

namespace harness {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(3);
}

inline void* device_memory(size_t bytes) {
  void* memory = nullptr;
  if (bytes) check(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}

struct Request {
  std::vector<double> scalars;
  std::vector<void*> arrays;
  std::vector<int64_t> bytes;
  size_t next_scalar = 0, next_array = 0;

  int64_t integer() { return int64_t(scalars.at(next_scalar++)); }
  double real() { return scalars.at(next_scalar++); }
  // The next array; null when it is empty.
  template <class T> T* array() { return static_cast<T*>(arrays.at(next_array++)); }
  // The next array receives numbers of the host.
  void write(std::initializer_list<int64_t> numbers) {
    check(cudaMemcpy(array<char>(), numbers.begin(), numbers.size() * 8, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
};

// Memory of a kernel's own, with `fill` in every byte.
inline void* scratch(size_t bytes, int fill, size_t = 256) {
  void* memory = device_memory(bytes);
  if (bytes && !std::getenv("PRUNECCA_UNWRITTEN")) check(cudaMemset(memory, fill, bytes), "cudaMemset");
  return memory;
}
// Kernels that use it may be under way: cudaFree waits for them.
inline void release(void* memory) { check(cudaFree(memory), "cudaFree"); }

// Memory of which little is used.
inline void* sparse(size_t bytes) { return device_memory(bytes); }
inline void release_sparse(void* memory, size_t) { release(memory); }
inline void copy(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
}

// Streams beside each other, by number from 1 on, until they are joined.
inline cudaStream_t stream(int number) {
  static std::map<int, cudaStream_t> streams;
  cudaStream_t& found = streams[number];
  if (!found) check(cudaStreamCreateWithFlags(&found, cudaStreamNonBlocking), "cudaStreamCreate");
  return found;
}
inline void join() { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

// A request as it was read, byte by byte.
struct Input {
  std::FILE* stream;
  std::string seen;

  bool read(void* to, size_t bytes) {
    if (std::fread(to, 1, bytes, stream) != bytes) return false;
    seen.append(static_cast<const char*>(to), bytes);
    return true;
  }
};

// Appends what is new to the file that PRUNECCA_RECORD names, and is on the disk before the kernel runs.
inline void record(const std::string& request) {
  static std::set<size_t> before;
  const char* path = std::getenv("PRUNECCA_RECORD");
  // The first number, the order of the emulation's threads, means nothing to a device.
  if (!path || !before.insert(std::hash<std::string_view>{}(std::string_view(request).substr(8))).second) return;
  std::FILE* file = std::fopen(path, "ab");
  if (!file || std::fwrite(request.data(), 1, request.size(), file) != request.size() || std::fclose(file)) {
    std::fprintf(stderr, "%s cannot be written\n", path);
    std::exit(4);
  }
}

// Runs `kernel(Request&)`, which returns a cudaError_t, on every request until the input ends.
template <class Kernel> int serve(Kernel kernel) {
  const char* path = std::getenv("PRUNECCA_REQUESTS");
  Input input{path ? std::fopen(path, "rb") : stdin, {}};
  if (!input.stream) return std::fprintf(stderr, "%s cannot be read\n", path), 2;
  int64_t done = 0, left = 0;
  for (int64_t order, count; input.seen.clear(), input.read(&order, 8) && input.read(&count, 8); ++done) {
    Request request;
    request.scalars.resize(size_t(count));
    if (!input.read(request.scalars.data(), size_t(count) * 8) || !input.read(&count, 8)) return 2;
    std::vector<char> host;
    for (int64_t i = 0, bytes; i < count; ++i) {
      if (!input.read(&bytes, 8)) return 2;
      host.resize(size_t(bytes));
      if (!input.read(host.data(), host.size())) return 2;
      request.bytes.push_back(bytes);
      request.arrays.push_back(device_memory(host.size()));
      if (bytes)
        check(cudaMemcpy(request.arrays.back(), host.data(), host.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    record(input.seen);
    if (const cudaError_t refused = kernel(request); refused != cudaSuccess) {  // in the words of the emulation
      std::fprintf(stderr, "cuda error %d\n", int(refused));
      if (!path) return 3;
      ++left;
      (void)cudaGetLastError();
    }
    check(cudaDeviceSynchronize(), "kernel");
    for (size_t i = 0; i < request.arrays.size(); ++i) {
      host.resize(size_t(request.bytes[i]));
      if (!host.empty())
        check(cudaMemcpy(host.data(), request.arrays[i], host.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
      if (!path) std::fwrite(host.data(), 1, host.size(), stdout);
      check(cudaFree(request.arrays[i]), "cudaFree");
    }
    if (!path) std::fflush(stdout);
  }
  if (path) std::printf("%lld requests, %lld refused\n", static_cast<long long>(done), static_cast<long long>(left));
  return 0;
}

}  // namespace harness
