// The state of a selection on the device, and how a block counts digits and goes from one to the next.
#pragma once
#include <climits>

#include "cuda/reduce.cuh"
#include "cuda/threshold_keys.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;
constexpr int kBlocks = 1056;   // of the passes over the scores: 8 for each of 132 multiprocessors
constexpr int kHistograms = 3;  // of a pool: one is read, one is made, one is cleared
constexpr int kMostDigits = 6;  // of a key of 64 bits
constexpr int kListed = 384;    // open entries of a chunk that its list holds; normal weights leave 30 to 250
using Counter = unsigned long long;

// The digits of a key, from the top: digit `i` is bits [shift, shift + bits).
struct Digit {
  int shift, bits;
  __host__ __device__ Digit(int i, int width) {
    const int top = width - i * kDigitBits;
    bits = top < kDigitBits ? top : kDigitBits;
    shift = top - bits;
  }
};
template <class T> constexpr int kWidth = 8 * int(sizeof(WordOf<T>));
template <class T> constexpr int kDigits = (kWidth<T> + kDigitBits - 1) / kDigitBits;

// What is known of the wanted-th lowest key of a pool after some digits.
struct Known {
  Counter wanted;  // how many of the keys that agree with `prefix` are to be cleared
  Counter inside;  // how many keys agree with it
  Counter prefix;  // the known digits
  int cut;         // whether anything is to be cleared
  __device__ __forceinline__ bool splits_ties() const { return cut && wanted < inside; }
};
struct Pool {
  Counter survivors;
  int nan;  // INT_MAX - index of the first tensor with a NaN
};

// In this order: what survey_scores clears, then what is written before it is read.
struct Workspace {
  Pool* pool;
  Counter* counts;   // kHistograms of kBins per pool
  int* tickets;      // per launch: blocks that have begun; in front of them, blocks that have ended the survey
  int* ties;         // per chunk: 1 + survivors at the threshold, once they are counted
  Known* known;      // kMostDigits per pool: after the first digit, after the second, ...
  int* listed;       // per chunk: entries that are open after the first digit
  uint64_t* keys;    // per chunk kListed, of WordOf<T> each
  uint16_t* places;  // of them in the chunk
  size_t cleared, bytes;

  Workspace(void* memory, int pools, int64_t tensors, int64_t chunks) {
    char* at = static_cast<char*>(memory);
    size_t used = 0;
    const auto take = [&](auto*& array, int64_t count) {
      array = reinterpret_cast<std::decay_t<decltype(array)>>(at + used);
      used += (size_t(count) * sizeof *array + 15) / 16 * 16;
    };
    take(pool, pools), take(counts, int64_t(pools) * kHistograms * kBins), take(tickets, tensors + 2);
    take(ties, chunks), cleared = used;
    take(known, int64_t(pools) * kMostDigits), take(listed, chunks);
    take(keys, chunks * kListed), take(places, chunks * kListed), bytes = used;
  }
  template <class T> __device__ __forceinline__ WordOf<T>* keys_of(int64_t chunk) const {
    return reinterpret_cast<WordOf<T>*>(keys) + chunk * kListed;
  }
  __device__ __forceinline__ Counter* histogram(int pool, int digit) const {
    return counts + (int64_t(pool) * kHistograms + digit % kHistograms) * kBins;
  }
};

// What a launch knows beside the tensors' addresses.
struct Pass {
  Workspace workspace;
  int pools, blocks;            // pools of the selection; blocks of all launches of this pass
  int digit = 0;                // of the histogram that is made
  int launch = 0;               // of this pass
  int chunk_offset = 0;         // chunks of the launches before
  int pool[kTable]{};           // per tensor
  int first_of_pool[kTable]{};  // first chunk of the tensor's pool, counted over all launches
};

// Adds one to counts[bin] for every lane with `counted`. Lanes often fall into one bin (all of them, in a layer of
// zeros), so those in the first such lane's bin are added at once. All lanes of the warp call it.
__device__ __forceinline__ void count(unsigned* counts, unsigned bin, bool counted) {
  const unsigned all = __ballot_sync(~0u, counted);
  if (!all) return;
  const int leader = __ffs(int(all)) - 1;
  const unsigned common = __shfl_sync(~0u, bin, leader);
  const bool led = counted && bin == common;
  const unsigned together = __ballot_sync(~0u, led);
  const bool leads = int(threadIdx.x % 32) == leader;
  if (leads || (counted && !led)) atomicAdd(&counts[bin], leads ? unsigned(__popc(together)) : 1u);
}

struct Histogram {  // a block's, of one pool at a time
  unsigned counts[kBins];
  Counter scratch[kBlock / 32];
  Known known;

  __device__ void clear() {
    for (int b = int(threadIdx.x); b < kBins; b += kBlock) counts[b] = 0;
    __syncthreads();
  }
  // Adds it to the pool's, and begins anew. Thread 0 gets how many were counted.
  __device__ Counter hand_over(Counter* to) {
    __syncthreads();
    Counter sum = 0;
    for (int b = int(threadIdx.x); b < kBins; b += kBlock) {
      if (counts[b]) atomicAdd(&to[b], Counter(counts[b])), sum += counts[b];
      counts[b] = 0;
    }
    sum = block_sum<kBlock>(sum, scratch);
    __syncthreads();
    return sum;
  }
};

// What is known of a pool after one more digit: every thread gets it. `counts`: how many of the keys that agreed before
// have which digit.
__device__ Known choose(Histogram& shared, const Counter* counts, const Known& before, int bits) {
  constexpr int kOwn = kBins / kBlock;  // neighbouring bins of one thread
  Counter own[kOwn], sum = 0;
#pragma unroll
  for (int b = 0; b < kOwn; ++b) own[b] = counts[threadIdx.x * kOwn + b], sum += own[b];
  if (threadIdx.x == 0) shared.known = before;
  Counter below = block_scan<kBlock>(sum, shared.scratch).before;  // its barrier parts the two writes
  if (before.cut && before.wanted > below && before.wanted <= below + sum) {
#pragma unroll
    for (int b = 0; b < kOwn; ++b) {
      if (before.wanted > below && before.wanted <= below + own[b])
        shared.known = {before.wanted - below, own[b], before.prefix << bits | (threadIdx.x * kOwn + b), 1};
      below += own[b];
    }
  }
  __syncthreads();
  const Known known = shared.known;
  __syncthreads();  // before anybody chooses again
  return known;
}

// What is known of a pool after `digits` of them. The block with the pool's first chunk keeps it for later launches.
template <class T> __device__ Known know(Histogram& shared, const Pass& pass, int pool, int digits,
                                         const int64_t* wanted_of_pool, bool keep) {
  const Workspace& w = pass.workspace;
  Known before;
  if (digits == 1) {
    const Pool seen = w.pool[pool];
    const Counter wanted = min(Counter(max(wanted_of_pool[pool], int64_t(0))), seen.survivors);
    before = {wanted, seen.survivors, 0, wanted > 0 && !seen.nan};
  } else {
    before = w.known[int64_t(pool) * kMostDigits + digits - 2];
  }
  const Known known = choose(shared, w.histogram(pool, digits - 1), before, Digit(digits - 1, kWidth<T>).bits);
  if (keep && threadIdx.x == 0) w.known[int64_t(pool) * kMostDigits + digits - 1] = known;
  return known;
}

}  // namespace
}  // namespace prunecca::cuda
