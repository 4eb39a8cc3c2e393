// What the machine can do at most: the rate of fused multiply-adds, of reading and of copying memory. Benchmarks
// hold the kernels against these, in the same run and at the same SIMD level.
#pragma once
#include <cstddef>
#include <cstdint>

namespace prunecca::cpu {

// Runs `iterations` rounds of independent multiply-adds on each of `threads` threads, in registers alone.
// Returns the floating-point operations done by all threads; the caller takes the time.
double peak_fma(bool float64, int64_t iterations, int threads);

// Reads `words` 64-bit words once; returns their exclusive or.
uint64_t peak_read(const uint64_t* data, int64_t words, int threads);

void peak_copy(uint64_t* to, const uint64_t* from, int64_t words, int threads);

}  // namespace prunecca::cpu
