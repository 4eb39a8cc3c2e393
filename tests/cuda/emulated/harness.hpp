// How a test speaks with an emulated kernel: requests on standard input, the arrays as the kernel left them on
// standard output. tests/cuda/emulated/build.py builds the programs and speaks the other end of this protocol.
//
// A request: the order in which threads take turns (emu::order), the number of scalars, the scalars (float64), the
// number of arrays, then per array its size in bytes and its bytes; all but the scalars are int64. The reply: per array
// its bytes.
//
// benchmarks/cuda/harness/harness.hpp runs the same programs on a device: they take memory and write to arrays through
// the functions of this file alone.
#pragma once
#include <cstdio>
#include <initializer_list>

#include "cuda/platform.cuh"

namespace harness {

struct Request {
  std::vector<double> scalars;
  std::vector<void*> arrays;  // each an allocation of exactly its size, aligned to 256 bytes as cudaMalloc's are
  std::vector<int64_t> bytes;
  size_t next_scalar = 0, next_array = 0;

  int64_t integer() { return int64_t(scalars.at(next_scalar++)); }
  double real() { return scalars.at(next_scalar++); }
  // The next array; null when it is empty.
  template <class T> T* array() {
    const size_t i = next_array++;
    return bytes.at(i) ? static_cast<T*>(arrays[i]) : nullptr;
  }
  // The next array receives numbers of the host.
  void write(std::initializer_list<int64_t> numbers) {
    std::memcpy(array<char>(), numbers.begin(), numbers.size() * 8);
  }
};

// Memory of a kernel's own, with `fill` in every byte.
inline void* scratch(size_t bytes, int fill, size_t alignment = 256) {
  return std::memset(emu::aligned_memory(bytes, alignment), fill, bytes);
}
inline void release(void* memory) { std::free(memory); }

// Memory of which little is used: on the host only that takes room.
inline void* sparse(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) emu::die("no address space");
  return memory;
}
inline void release_sparse(void* memory, size_t bytes) { munmap(memory, bytes); }
inline void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

// Streams beside each other, by number from 1 on, until they are joined.
inline cudaStream_t stream(int number) { return reinterpret_cast<void*>(uintptr_t(number)); }
inline void join() { emu::join(unsigned(emu::order)); }

inline bool read(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

// Runs `kernel(Request&)`, which returns a cudaError_t, on every request until the input ends.
template <class Kernel> int serve(Kernel kernel) {
  for (int64_t order, count; read(&order, 8) && read(&count, 8);) {
    emu::order = int(order);
    Request request;
    request.scalars.resize(size_t(count));
    if (!read(request.scalars.data(), size_t(count) * 8) || !read(&count, 8)) return 2;
    for (int64_t i = 0, bytes; i < count; ++i) {
      if (!read(&bytes, 8)) return 2;
      request.bytes.push_back(bytes);
      request.arrays.push_back(emu::aligned_memory(size_t(bytes), 256));
      if (!read(request.arrays.back(), size_t(bytes))) return 2;
    }
    if (const cudaError_t error = kernel(request); error != cudaSuccess) {
      std::fprintf(stderr, "cuda error %d\n", int(error));
      return 3;
    }
    for (size_t i = 0; i < request.arrays.size(); ++i) {
      std::fwrite(request.arrays[i], 1, size_t(request.bytes[i]), stdout);
      std::free(request.arrays[i]);
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace harness
