#include "cuda/threshold.cuh"

#include "cuda/threshold_digits.cuh"

namespace prunecca::cuda {
namespace {

// Survivors, NaNs and the histogram of the first digit. The last block to end writes the survey.
// Bytes per element: the score, and one of the mask.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 4)
    survey_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass, int64_t* survey) {
  struct Shared {
    Histogram histogram;
    int ended;
  };
  Shared& shared = static_shared<Shared>();
  shared.histogram.clear();
  const Workspace& w = pass.workspace;
  const Digit digit(0, kWidth<T>);
  int pool = -1;
  const auto hand_over = [&] {
    const Counter survivors = shared.histogram.hand_over(w.histogram(pool, 0));
    if (threadIdx.x == 0 && survivors) atomicAdd(&w.pool[pool].survivors, survivors);
  };
  const Share share = share_of_block(tensors, int(blockIdx.x));
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    if (pass.pool[c.tensor] != pool) {
      if (pool >= 0) hand_over();
      pool = pass.pool[c.tensor];
    }
    Piece<T> piece;
    load_piece(piece, tensors, c);
    bool nan = false;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const WordOf<T> bits = bits_of(piece.score[s].at[j]);
        const bool alive = piece.alive[s].at[j] != 0;
        nan |= alive && is_nan(bits);
        count(shared.histogram.counts, unsigned(key_of_bits<kValue>(bits) >> digit.shift), alive);
      }
    }
    if (nan) atomicMax(&w.pool[pool].nan, INT_MAX - tensors.index[c.tensor]);
  }
  if (pool >= 0) hand_over();
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.ended = atomicAdd(w.tickets, 1);
  __syncthreads();
  if (shared.ended != pass.blocks - 1) return;
  __threadfence();
  for (int p = int(threadIdx.x); p < pass.pools; p += kBlock) {
    const Pool seen{*const_cast<volatile Counter*>(&w.pool[p].survivors), *const_cast<volatile int*>(&w.pool[p].nan)};
    survey[2 * p] = int64_t(seen.survivors);
    survey[2 * p + 1] = seen.nan ? INT_MAX - seen.nan : -1;
  }
}

// Writes the masks as far as the first digit decides them, with the open entries kept, lists these, and makes the
// histogram of their second digit. Bytes per element: the score, one of the mask read, one written.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 3)
    divide_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass,
                  const int64_t* wanted_of_pool) {
  struct Shared {
    Histogram histogram;
    int before[2][kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  shared.histogram.clear();
  const Workspace& w = pass.workspace;
  const Digit first(0, kWidth<T>), second(1, kWidth<T>);
  int pool = -1;
  Known known{};
  const Share share = share_of_block(tensors, int(blockIdx.x));
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    const int64_t place = pass.chunk_offset + chunk;
    if (pass.pool[c.tensor] != pool) {
      if (pool >= 0) shared.histogram.hand_over(w.histogram(pool, 1));
      pool = pass.pool[c.tensor];
      known = know<T>(shared.histogram, pass, pool, 1, wanted_of_pool, place == pass.first_of_pool[c.tensor]);
    }
    Piece<T> piece;
    load_piece(piece, tensors, c);
    uint8_t* mask = tensors.at<uint8_t>(2, c.tensor);
    unsigned open = 0;  // a bit for each of this thread's elements
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      Four<uint8_t> kept;
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const WordOf<T> key = key_of_bits<kValue>(bits_of(piece.score[s].at[j])), digit = key >> first.shift,
                        limit = WordOf<T>(known.prefix);
        const bool alive = piece.alive[s].at[j] != 0, is_open = alive && known.cut && digit == limit;
        kept.at[j] = alive && (!known.cut || digit >= limit);
        open |= unsigned(is_open) << (s * kFour + j);
        if (known.cut) count(shared.histogram.counts, unsigned(key >> second.shift) & (kBins - 1), is_open);
      }
      c.whole() ? store_four<true>(mask, c.four(s), c, kept) : store_four<false>(mask, c.four(s), c, kept);
    }
    const Scan<int> scan = block_scan<kBlock>(__popc(open), shared.before[chunk % 2]);
    if (threadIdx.x == 0) w.listed[place] = scan.total;
    if (scan.total > kListed) continue;  // later launches read this chunk again
    int at = scan.before;
#pragma unroll
    for (int i = 0; i < kSteps * kFour; ++i) {
      if (!(open >> i & 1)) continue;
      w.keys_of<T>(place)[at] = key_of_bits<kValue>(bits_of(piece.score[i / kFour].at[i % kFour]));
      w.places[place * kListed + at++] = uint16_t((i / kFour * kBlock + threadIdx.x) * kFour + i % kFour);
    }
  }
  if (pool >= 0) shared.histogram.hand_over(w.histogram(pool, 1));
}

// Calls act(key, whether it counts) for the open entries of a chunk, and others that do not count, in all lanes of a
// warp at once: from its list, or from the scores and the mask that divide_kernel wrote.
template <class T, bool kValue, class Act>
__device__ __forceinline__ void for_open(const Tensors& tensors, const Workspace& w, const Chunk& c, int64_t place,
                                         Act act) {
  const int listed = w.listed[place];
  if (listed <= kListed) {
    for (int i = int(threadIdx.x); i < (listed + 31) / 32 * 32; i += kBlock)
      act(i < listed ? w.keys_of<T>(place)[i] : WordOf<T>(0), i < listed);
    return;
  }
  Piece<T> piece;
  load_piece(piece, tensors, c, tensors.at<const uint8_t>(2, c.tensor));
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int j = 0; j < kFour; ++j) act(key_of_bits<kValue>(bits_of(piece.score[s].at[j])), piece.alive[s].at[j] != 0);
  }
}

// The histogram of a later digit of the open entries. Bytes per element: few, or the score and one of the mask.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 3)
    narrow_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass) {
  Histogram& shared = static_shared<Histogram>();
  shared.clear();
  const Workspace& w = pass.workspace;
  for (int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x; i < int64_t(pass.pools) * kBins;
       i += int64_t(gridDim.x) * kBlock)
    w.histogram(int(i / kBins), pass.digit + 1)[i % kBins] = 0;  // read for the last time in the launch before
  const Digit digit(pass.digit, kWidth<T>);
  int pool = -1;
  Known known{};
  const Share share = share_of_block(tensors, int(blockIdx.x));
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    const int64_t place = pass.chunk_offset + chunk;
    if (pass.pool[c.tensor] != pool) {
      if (pool >= 0) shared.hand_over(w.histogram(pool, pass.digit));
      pool = pass.pool[c.tensor];
      known = know<T>(shared, pass, pool, pass.digit, nullptr, place == pass.first_of_pool[c.tensor]);
    }
    if (!known.cut) continue;
    for_open<T, kValue>(tensors, w, c, place, [&](WordOf<T> key, bool counts) {
      count(shared.counts, unsigned(key >> digit.shift) & ((1u << digit.bits) - 1),
            counts && key >> digit.shift >> digit.bits == WordOf<T>(known.prefix));
    });
  }
  if (pool >= 0) shared.hand_over(w.histogram(pool, pass.digit));
}

// The survivors at the threshold in the chunks of a pool before `place`: every thread gets them. Waits for blocks with
// lower tickets, which wait for none with higher ones before they have counted.
__device__ Counter ties_before(const Workspace& w, int first, int64_t place, Counter* scratch) {
  Counter sum = 0;
  for (int64_t i = first + int(threadIdx.x); i < place; i += kBlock) {
    int ties;
    do ties = *const_cast<volatile int*>(&w.ties[i]);
    while (!ties);
    sum += Counter(ties - 1);
  }
  sum = block_scan<kBlock>(sum, scratch).total;
  __syncthreads();
  return sum;
}

// Clears what is still to be cleared of the open entries. Bytes per element: few, or as for divide_kernel.
template <class T, bool kValue>
__global__ void __launch_bounds__(kBlock, 3)
    finish_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Pass pass) {
  struct Shared {
    Histogram histogram;
    int ties[2][kBlock / 32];
    int ticket;
  };
  Shared& shared = static_shared<Shared>();
  const Workspace& w = pass.workspace;
  if (threadIdx.x == 0) shared.ticket = atomicAdd(&w.tickets[1 + pass.launch], 1);
  __syncthreads();
  const Share share = share_of_block(tensors, shared.ticket);
  int pool = -1;
  Known known{};
  const auto meet = [&](const Chunk& c) {  // whether the pool is another than the chunk's before
    const bool is_new = pass.pool[c.tensor] != pool;
    pool = pass.pool[c.tensor];
    if (is_new) known = know<T>(shared.histogram, pass, pool, kDigits<T>, nullptr, false);
    return is_new;
  };
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    meet(c);
    if (!known.splits_ties()) continue;
    const int64_t place = pass.chunk_offset + chunk;
    int ties = 0;
    for_open<T, kValue>(tensors, w, c, place,
                        [&](WordOf<T> key, bool counts) { ties += counts && key == WordOf<T>(known.prefix); });
    ties = block_sum<kBlock>(ties, shared.ties[0]);
    if (threadIdx.x == 0) *const_cast<volatile int*>(&w.ties[place]) = 1 + ties;
    __syncthreads();
  }
  pool = -1;
  Counter before = 0;  // ties of this pool in the chunks before
  for (int chunk = share.begin; chunk < share.end; ++chunk) {
    const Chunk c = find_chunk(tensors, chunk);
    const bool is_new = meet(c);
    if (!known.cut) continue;
    const int64_t place = pass.chunk_offset + chunk;
    int here = 0;
    if (known.splits_ties()) {
      if (is_new) before = ties_before(w, pass.first_of_pool[c.tensor], place, shared.histogram.scratch);
      here = *const_cast<volatile int*>(&w.ties[place]) - 1;
    }
    // Ties of this chunk to be cleared: all of them where the pool's ties all go.
    const bool all_go = !known.splits_ties() || before + Counter(here) <= known.wanted;
    int quota = all_go || before >= known.wanted ? 0 : int(min(known.wanted - before, Counter(here)));
    before += Counter(here);
    const WordOf<T> limit = WordOf<T>(known.prefix);
    uint8_t* mask = tensors.at<uint8_t>(2, c.tensor);
    const int listed = w.listed[place];
    if (listed <= kListed && !quota) {
      for (int i = int(threadIdx.x); i < listed; i += kBlock) {
        const WordOf<T> key = w.keys_of<T>(place)[i];
        if (key < limit || (all_go && key == limit)) mask[c.begin + w.places[place * kListed + i]] = 0;
      }
      continue;
    }
    Piece<T> piece;
    load_piece(piece, tensors, c, mask);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      bool tie[kFour];
      int ties = 0;
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const WordOf<T> key = key_of_bits<kValue>(bits_of(piece.score[s].at[j]));
        const bool alive = piece.alive[s].at[j] != 0;
        tie[j] = alive && key == limit;
        ties += tie[j];
        piece.alive[s].at[j] = alive && (key > limit || (key == limit && !all_go));
      }
      if (quota > 0) {  // the chunk in which the quota ends: the same for all threads of the block
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

Workspace workspace_of(const Selection& selection) {
  int64_t chunks = 0;
  for (const Scores& t : selection.tensors) chunks += (t.size + kChunk - 1) / kChunk;
  return Workspace(selection.workspace, selection.pools, int64_t(selection.tensors.size()), chunks);
}

// Starts a pass over all scores: in one launch, up to kTable tensors.
template <class Kernel, class... Rest>
cudaError_t start_pass(const Selection& selection, Kernel kernel, int digit, cudaStream_t stream, Rest... rest) {
  const auto blocks = [](const Tensors& tensors) { return min(tensors.chunks(), unsigned(kBlocks)); };
  Pass pass{workspace_of(selection), selection.pools, 0, digit};
  for_tables<3, kTable, kTable>(selection.tensors, [&](const Tensors& tensors) {
    pass.blocks += int(blocks(tensors));
    return cudaSuccess;
  });
  if (!pass.blocks) {  // nothing to read, but a survey to write
    Tensors none;
    none.first[0] = 0;
    pass.blocks = 1;
    return launch({1, kBlock, 0, stream}, kernel, none, pass, rest...);
  }
  int pool = -1, first_of_pool = 0;
  return for_tables<3, kTable, kTable>(selection.tensors, [&](const Tensors& tensors) {
    for (int t = 0; t < tensors.count; ++t) {
      const Scores& scored = selection.tensors[size_t(tensors.index[t])];
      if (scored.pool != pool) first_of_pool = pass.chunk_offset + tensors.first[t];
      pass.pool[t] = pool = scored.pool;
      pass.first_of_pool[t] = first_of_pool;
    }
    const cudaError_t error = launch({blocks(tensors), kBlock, 0, stream}, kernel, tensors, pass, rest...);
    pass.chunk_offset += int(tensors.chunks());
    ++pass.launch;
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

int64_t workspace_bytes(const Selection& selection) { return int64_t(workspace_of(selection).bytes); }

cudaError_t survey_scores(const Selection& selection, int64_t* survey, cudaStream_t stream) {
  const cudaError_t error = cudaMemsetAsync(selection.workspace, 0, workspace_of(selection).cleared, stream);
  if (error != cudaSuccess) return error;
  return with_types(selection, [&](auto score, auto value) {
    return start_pass(selection, survey_kernel<decltype(score), value.value>, 0, stream, survey);
  });
}

cudaError_t cut_scores(const Selection& selection, const int64_t* wanted, cudaStream_t stream) {
  return with_types(selection, [&](auto score, auto value) {
    using T = decltype(score);
    cudaError_t error = start_pass(selection, divide_kernel<T, value.value>, 1, stream, wanted);
    for (int digit = 2; digit < kDigits<T> && error == cudaSuccess; ++digit)
      error = start_pass(selection, narrow_kernel<T, value.value>, digit, stream);
    if (error != cudaSuccess) return error;
    return start_pass(selection, finish_kernel<T, value.value>, kDigits<T>, stream);
  });
}

}  // namespace prunecca::cuda
