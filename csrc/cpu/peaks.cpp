#include "cpu/peaks.hpp"

#include <cstring>

#include "cpu/peaks_kernel.hpp"

namespace prunecca::cpu {

namespace {

PeaksKernel chosen_kernel() {
  return at_simd_level([](auto level) { return peaks_kernel(level); });
}

int64_t start_of(int part, int parts, int64_t words) {
  return words / parts * part + (part == parts ? words % parts : 0);
}

}  // namespace

double peak_fma(bool float64, int64_t iterations, int threads) {
  const PeaksKernel kernel = chosen_kernel();
  double operations = 0;
#pragma omp parallel num_threads(threads) reduction(+ : operations)
  operations += float64 ? kernel.fma_float64(iterations) : kernel.fma_float32(iterations);
  return operations;
}

uint64_t peak_read(const uint64_t* data, int64_t words, int threads) {
  const PeaksKernel kernel = chosen_kernel();
  uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(^ : sum)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = start_of(t, threads, words);
    sum ^= kernel.read(data + begin, start_of(t + 1, threads, words) - begin);
  }
  return sum;
}

void peak_copy(uint64_t* to, const uint64_t* from, int64_t words, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = start_of(t, threads, words);
    std::memcpy(to + begin, from + begin, size_t(start_of(t + 1, threads, words) - begin) * sizeof(uint64_t));
  }
}

}  // namespace prunecca::cpu
