#include "cuda/threshold.cuh"

#include <climits>

#include "cuda/reduce.cuh"
#include "cuda/threshold_keys.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;
constexpr int kBlocks = 1056;  // of the passes over the scores: 8 for each of 132 multiprocessors
using Counter = unsigned long long;

// What is known of one pool. All zero at the start.
struct Pool {
  Counter wanted;  // how many of the keys that agree with `prefix` are to be cleared
  Counter inside;  // how many keys agree with it
  Counter prefix;  // the known digits of the wanted-th lowest key
  int nan;         // INT_MAX - index of the first tensor with a NaN
  int cut;         // whether anything is to be cleared
  __device__ __forceinline__ bool splits_ties() const { return cut && wanted < inside; }
};

struct Workspace {
  Pool* pool;
  Counter* counts;  // one histogram per pool
  int* ties;        // per chunk: survivors at the threshold

  Workspace(void* memory, int pools)
      : pool(static_cast<Pool*>(memory)),
        counts(reinterpret_cast<Counter*>(pool + pools)),
        ties(reinterpret_cast<int*>(counts + int64_t(pools) * kBins)) {}
};

// What a launch knows beside the tensors' addresses.
struct Pass {
  Workspace workspace;
  int chunk_offset = 0;       // chunks of the launches before
  int shift = 0, bits = 0;    // the digit: bits [shift, shift + bits) of the key
  int pool[kTable];           // per tensor
  int first_of_pool[kTable];  // first chunk of the tensor's pool, counted over all launches
};

// ---- Kernels --------------------------------------------------------------------------------------------------------

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

// One histogram per pool of the digit, over the survivors that agree with what is known.
// Bytes per element: the score, and one of the mask.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 4)
    histogram_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass) {
  struct Shared {
    unsigned counts[kBins];
  };
  Shared& shared = static_shared<Shared>();
  for (int b = int(threadIdx.x); b < kBins; b += kBlock) shared.counts[b] = 0;
  __syncthreads();
  int pool = -1;
  WordOf<T> prefix = 0;
  const bool first = pass.shift + pass.bits == 8 * int(sizeof(WordOf<T>));
  const auto hand_over = [&] {
    __syncthreads();
    for (int b = int(threadIdx.x); b < kBins; b += kBlock) {
      if (shared.counts[b]) atomicAdd(&pass.workspace.counts[int64_t(pool) * kBins + b], Counter(shared.counts[b]));
      shared.counts[b] = 0;
    }
    __syncthreads();
  };
  const Share share = share_of_block(tensors);
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    if (pass.pool[c.tensor] != pool) {
      if (pool >= 0) hand_over();
      pool = pass.pool[c.tensor];
      prefix = WordOf<T>(pass.workspace.pool[pool].prefix);
    }
    Piece<T> piece;
    load_piece(piece, tensors, c);
    bool nan = false;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const WordOf<T> bits = bits_of(piece.score[s].at[j]), digit = key_of_bits<kValue>(bits) >> pass.shift;
        const bool alive = piece.alive[s].at[j] != 0;
        nan |= alive && is_nan(bits);
        count(shared.counts, unsigned(digit) & ((1u << pass.bits) - 1), alive && digit >> pass.bits == prefix);
      }
    }
    if (first && nan) atomicMax(&pass.workspace.pool[pool].nan, INT_MAX - tensors.index[c.tensor]);
  }
  if (pool >= 0) hand_over();
}

// One block per pool counts the survivors.
__global__ void __launch_bounds__(kBlock) survey_kernel(Workspace workspace, int64_t* survey) {
  struct Shared {
    Counter partial[kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  Counter survivors = 0;
  for (int b = int(threadIdx.x); b < kBins; b += kBlock) survivors += workspace.counts[int64_t(blockIdx.x) * kBins + b];
  survivors = block_sum<kBlock>(survivors, shared.partial);
  if (threadIdx.x) return;
  Pool& pool = workspace.pool[blockIdx.x];
  pool.inside = survivors;
  survey[2 * blockIdx.x] = int64_t(survivors);
  survey[2 * blockIdx.x + 1] = pool.nan ? INT_MAX - pool.nan : -1;
}

// One block per pool goes to the bin of the wanted-th lowest key, and clears the histogram for the next digit.
// wanted: given with the first digit.
__global__ void __launch_bounds__(kBlock) choose_kernel(Workspace workspace, const int64_t* wanted_of_pool, int bits) {
  constexpr int kOwn = kBins / kBlock;  // neighbouring bins of one thread
  struct Shared {
    Counter partial[kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  Pool& pool = workspace.pool[blockIdx.x];
  Counter* counts = workspace.counts + int64_t(blockIdx.x) * kBins + threadIdx.x * kOwn;
  Counter own[kOwn], sum = 0;
#pragma unroll
  for (int b = 0; b < kOwn; ++b) {
    own[b] = counts[b];
    counts[b] = 0;
    sum += own[b];
  }
  Counter wanted = pool.wanted;
  bool cut = pool.cut;
  if (wanted_of_pool) {
    wanted = min(Counter(max(wanted_of_pool[blockIdx.x], int64_t(0))), pool.inside);
    cut = wanted > 0 && !pool.nan;
  }
  const Counter prefix = pool.prefix;
  Counter below = block_scan<kBlock>(sum, shared.partial).before;  // its barrier parts reading from writing
  if (!cut || wanted <= below || wanted > below + sum) return;
#pragma unroll
  for (int b = 0; b < kOwn; ++b) {
    if (wanted > below && wanted <= below + own[b])
      pool = {wanted - below, own[b], prefix << bits | (threadIdx.x * kOwn + b), 0, 1};
    below += own[b];
  }
}

// How many survivors of each chunk are at the threshold, where only the first of them are to be cleared.
// Bytes per element: none, or the score and one of the mask.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 4)
    ties_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass) {
  struct Shared {
    int partial[kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  const Share share = share_of_block(tensors);
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    const Pool pool = pass.workspace.pool[pass.pool[c.tensor]];
    if (!pool.splits_ties()) continue;
    Piece<T> piece;
    load_piece(piece, tensors, c);
    int ties = 0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int j = 0; j < kFour; ++j)
        ties += piece.alive[s].at[j] && key_of_bits<kValue>(bits_of(piece.score[s].at[j])) == WordOf<T>(pool.prefix);
    }
    ties = block_sum<kBlock>(ties, shared.partial);
    if (threadIdx.x == 0) pass.workspace.ties[pass.chunk_offset + chunk] = ties;
    __syncthreads();
  }
}

// Writes the masks. Bytes per element: the score, one of the mask read, one written.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, sizeof(T) == 8 ? 3 : 4)
    cut_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass) {
  struct Shared {
    Counter before[kBlock / 32];
    int ties[2][kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  const Share share = share_of_block(tensors);
  int pool_index = -1;
  Counter before = 0;  // ties of this pool in the chunks before
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    const Pool pool = pass.workspace.pool[pass.pool[c.tensor]];
    const int place = pass.chunk_offset + chunk;
    int here = 0;
    if (pool.splits_ties()) {
      here = pass.workspace.ties[place];
      if (pool_index != pass.pool[c.tensor]) {
        Counter sum = 0;
        for (int i = pass.first_of_pool[c.tensor] + int(threadIdx.x); i < place; i += kBlock)
          sum += Counter(pass.workspace.ties[i]);
        before = block_scan<kBlock>(sum, shared.before).total;
        __syncthreads();
      }
    }
    pool_index = pass.pool[c.tensor];
    // Ties of this chunk to be cleared: all of them where the pool's ties all go.
    const bool all_go = pool.splits_ties() ? before + Counter(here) <= pool.wanted : true;
    int quota = !pool.splits_ties() || before >= pool.wanted ? 0 : int(min(pool.wanted - before, Counter(here)));
    before += Counter(here);

    Piece<T> piece;
    load_piece(piece, tensors, c);
    uint8_t* mask = tensors.at<uint8_t>(2, c.tensor);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      bool tie[kFour];
      int ties = 0;
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const WordOf<T> key = key_of_bits<kValue>(bits_of(piece.score[s].at[j])), limit = WordOf<T>(pool.prefix);
        const bool alive = piece.alive[s].at[j] != 0;
        tie[j] = alive && pool.cut && key == limit;
        ties += tie[j];
        piece.alive[s].at[j] = alive && (!pool.cut || key > limit || (key == limit && !all_go));
      }
      if (!all_go && quota > 0) {  // the chunk in which the quota ends: the same for all threads of the block
        const Scan<int> scan = block_scan<kBlock>(ties, shared.ties[s % 2]);
        int rank = scan.before;
#pragma unroll
        for (int j = 0; j < kFour; ++j)
          if (tie[j] && rank++ < quota) piece.alive[s].at[j] = 0;
        quota -= min(quota, scan.total);
      }
      c.whole() ? store_four<true>(mask, c.four(s), c, piece.alive[s])
                : store_four<false>(mask, c.four(s), c, piece.alive[s]);
    }
  }
}

// ---- Launches -------------------------------------------------------------------------------------------------------

int64_t chunks_of(const Selection& selection) {
  int64_t chunks = 0;
  for (const Scores& t : selection.tensors) chunks += (t.size + kChunk - 1) / kChunk;
  return chunks;
}

// Starts a pass over all scores: in one launch, up to kTable tensors.
template <class Kernel> cudaError_t start_pass(const Selection& selection, Kernel kernel, int shift, int bits,
                                               cudaStream_t stream) {
  Pass pass{Workspace(selection.workspace, selection.pools), 0, shift, bits, {}, {}};
  int pool = -1, first_of_pool = 0;
  return for_tables<3, kTable, kTable>(selection.tensors, [&](const Tensors& tensors) {
    for (int t = 0; t < tensors.count; ++t) {
      const Scores& scored = selection.tensors[size_t(tensors.index[t])];
      if (scored.pool != pool) first_of_pool = pass.chunk_offset + tensors.first[t];
      pass.pool[t] = pool = scored.pool;
      pass.first_of_pool[t] = first_of_pool;
    }
    const cudaError_t error =
        launch({min(tensors.chunks(), unsigned(kBlocks)), kBlock, 0, stream}, kernel, tensors, pass);
    pass.chunk_offset += int(tensors.chunks());
    return error;
  });
}

// Calls body(T{}, kValue as a constant) for the selection's dtype and order.
template <class Body> cudaError_t with_types(const Selection& selection, Body body) {
  const auto ordered = [&](auto score) {
    return selection.order == Order::value ? body(score, std::true_type{}) : body(score, std::false_type{});
  };
  switch (selection.dtype) {
    case Dtype::float32: return ordered(float{});
    case Dtype::float64: return ordered(double{});
    case Dtype::float16: return ordered(Half{});
    case Dtype::bfloat16: return ordered(Bfloat{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int64_t workspace_bytes(const Selection& selection) {
  return selection.pools * int64_t(sizeof(Pool) + kBins * sizeof(Counter)) +
         (chunks_of(selection) + 1) * int64_t(sizeof(int));
}

cudaError_t survey_scores(const Selection& selection, int64_t* survey, cudaStream_t stream) {
  const Workspace workspace(selection.workspace, selection.pools);
  const size_t cleared = size_t(selection.pools) * (sizeof(Pool) + kBins * sizeof(Counter));
  cudaError_t error = cudaMemsetAsync(selection.workspace, 0, cleared, stream);
  if (error != cudaSuccess) return error;
  error = with_types(selection, [&](auto score, auto value) {
    using T = decltype(score);
    constexpr int kWidth = 8 * int(sizeof(WordOf<T>));
    return start_pass(selection, histogram_kernel<T, value.value>, kWidth - kDigitBits, kDigitBits, stream);
  });
  if (error != cudaSuccess) return error;
  return launch({unsigned(selection.pools), kBlock, 0, stream}, survey_kernel, workspace, survey);
}

cudaError_t cut_scores(const Selection& selection, const int64_t* wanted, cudaStream_t stream) {
  const Workspace workspace(selection.workspace, selection.pools);
  return with_types(selection, [&](auto score, auto value) {
    using T = decltype(score);
    constexpr int kWidth = 8 * int(sizeof(WordOf<T>));
    int shift = kWidth - kDigitBits, bits = kDigitBits;  // of the histogram that survey_scores left
    for (;;) {
      const int64_t* given = shift + bits == kWidth ? wanted : nullptr;
      cudaError_t error = launch({unsigned(selection.pools), kBlock, 0, stream}, choose_kernel, workspace, given, bits);
      if (error != cudaSuccess) return error;
      if (shift == 0) break;
      bits = shift < kDigitBits ? shift : kDigitBits;
      shift -= bits;
      error = start_pass(selection, histogram_kernel<T, value.value>, shift, bits, stream);
      if (error != cudaSuccess) return error;
    }
    const cudaError_t error = start_pass(selection, ties_kernel<T, value.value>, 0, 0, stream);
    if (error != cudaSuccess) return error;
    return start_pass(selection, cut_kernel<T, value.value>, 0, 0, stream);
  });
}

}  // namespace prunecca::cuda
