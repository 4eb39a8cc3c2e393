// What the debiased CKA needs of the rows: their squared norms, and sums of rows weighted by another view's norms.
// One subtraction and one float64 FMA per element and pass: bound by memory, or by what is left of it in L2.
#include "cuda/covariance.cuh"
#include "cuda/reduce.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kNormThreads = 256;  // 8 blocks fill an SM's 2048 threads
constexpr int kChannels = 8;       // per block when planes are read: each weight is loaded once for all of them
constexpr int64_t kRows = 4096;    // per block, so that writing its partial sums costs nothing beside reading them
constexpr int64_t kMostPieces = 512;

struct Rows {
  int64_t rows, channels, channel_stride, inner, inner_stride, middle, middle_stride, outer_stride;
  explicit Rows(const View& v)
      : rows(v.rows()),
        channels(v.channels),
        channel_stride(v.channel_stride),
        inner(v.inner),
        inner_stride(v.inner_stride),
        middle(v.middle),
        middle_stride(v.middle_stride),
        outer_stride(v.outer_stride) {}
  __device__ int64_t offset(int64_t row) const {
    const int64_t line = row / inner;
    return (row - line * inner) * inner_stride + line % middle * middle_stride + line / middle * outer_stride;
  }
};

bool channels_adjoin(const View& v) { return v.channels > 1 && v.channel_stride == 1; }
int64_t pieces_of(int64_t rows) { return std::min<int64_t>(kMostPieces, (rows + kRows - 1) / kRows); }

// One thread per row: neighbouring threads read neighbouring elements of a channel plane.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    norms_by_plane(const T* data, Rows rows, const double* shift, double* norms) {
  const int64_t row = int64_t(blockIdx.x) * kNormThreads + threadIdx.x;
  if (row >= rows.rows) return;
  const T* x = data + rows.offset(row);
  double sum = 0;
#pragma unroll 4
  for (int64_t c = 0; c < rows.channels; ++c) {
    const double d = double(widen(x[c * rows.channel_stride])) - shift[c];
    sum += d * d;
  }
  norms[row] = sum;
}

// One warp per row: neighbouring lanes read neighbouring channels.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    norms_by_row(const T* data, Rows rows, const double* shift, double* norms) {
  const int64_t row = int64_t(blockIdx.x) * (kNormThreads / 32) + threadIdx.x / 32;
  if (row >= rows.rows) return;
  const T* x = data + rows.offset(row);
  double sum = 0;
#pragma unroll 4
  for (int64_t c = threadIdx.x % 32; c < rows.channels; c += 32) {
    const double d = double(widen(x[c * rows.channel_stride])) - shift[c];
    sum += d * d;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) norms[row] = sum;
}

// partial[piece][c] = sum over the piece's rows of weight[r] (x[r, c] - shift[c]); threads run along the rows.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    weigh_by_plane(const T* data, Rows rows, const double* shift, const double* weight, int64_t per_piece,
                   double* partial) {
  struct Storage {
    double scratch[kNormThreads / 32];
  };
  auto& storage = static_shared<Storage>();
  const int64_t first = int64_t(blockIdx.x) * kChannels, begin = blockIdx.y * per_piece,
                end = min(rows.rows, begin + per_piece);
  double sum[kChannels] = {};
  for (int64_t r = begin + threadIdx.x; r < end; r += kNormThreads) {
    const T* x = data + rows.offset(r) + first * rows.channel_stride;
    const double w = weight[r];
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (first + c < rows.channels) sum[c] += w * (double(widen(x[c * rows.channel_stride])) - shift[first + c]);
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const double total = block_sum<kNormThreads>(sum[c], storage.scratch);
    if (threadIdx.x == 0 && first + c < rows.channels) partial[blockIdx.y * rows.channels + first + c] = total;
    __syncthreads();
  }
}

// The same; lanes run along the channels, warps along the rows.
template <class T>
__global__ void __launch_bounds__(kNormThreads) weigh_by_row(const T* data, Rows rows, const double* shift,
                                                             const double* weight, int64_t per_piece, double* partial) {
  struct Storage {
    double sum[kNormThreads / 32][32];
  };
  auto& storage = static_shared<Storage>();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t c = int64_t(blockIdx.x) * 32 + lane, begin = blockIdx.y * per_piece,
                end = min(rows.rows, begin + per_piece);
  double sum = 0;
  if (c < rows.channels) {
#pragma unroll 4
    for (int64_t r = begin + warp; r < end; r += kNormThreads / 32)
      sum += weight[r] * (double(widen(data[rows.offset(r) + c * rows.channel_stride])) - shift[c]);
  }
  storage.sum[warp][lane] = sum;
  __syncthreads();
  if (warp || c >= rows.channels) return;
  for (int w = 1; w < kNormThreads / 32; ++w) sum += storage.sum[w][lane];
  partial[blockIdx.y * rows.channels + c] = sum;
}

// partial[piece] = sum over the piece of a[r] b[r].
__global__ void __launch_bounds__(kNormThreads)
    inner_products(const double* a, const double* b, int64_t n, int64_t per_piece, double* partial) {
  struct Storage {
    double scratch[kNormThreads / 32];
  };
  auto& storage = static_shared<Storage>();
  const int64_t begin = blockIdx.x * per_piece, end = min(n, begin + per_piece);
  double sum = 0;
  for (int64_t r = begin + threadIdx.x; r < end; r += kNormThreads) sum += a[r] * b[r];
  sum = block_sum<kNormThreads>(sum, storage.scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out[c] (and also[c], if given) += the sum over the pieces, in their order.
__global__ void __launch_bounds__(kNormThreads)
    add_in_order(const double* partial, int64_t pieces, int64_t n, double* out, double* also) {
  const int64_t c = int64_t(blockIdx.x) * kNormThreads + threadIdx.x;
  if (c >= n) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < pieces; ++p) sum += partial[p * n + c];
  out[c] += sum;
  if (also) also[c] += sum;
}
cudaError_t add_up(const double* partial, int64_t pieces, int64_t n, double* out, double* also, cudaStream_t stream) {
  return launch({dim3(unsigned((n + kNormThreads - 1) / kNormThreads)), dim3(kNormThreads), 0, stream}, add_in_order,
                partial, pieces, n, out, also);
}

template <class T> cudaError_t start_norms(const View& v, double* norms, cudaStream_t stream) {
  const bool by_row = channels_adjoin(v);
  const int64_t per_block = by_row ? kNormThreads / 32 : kNormThreads;
  return launch({dim3(unsigned((v.rows() + per_block - 1) / per_block)), dim3(kNormThreads), 0, stream},
                by_row ? norms_by_row<T> : norms_by_plane<T>, static_cast<const T*>(v.data), Rows(v), v.shift, norms);
}
template <class T> cudaError_t start_weigh(const View& v, const double* weight, double* scratch, int64_t pieces,
                                           cudaStream_t stream) {
  const bool by_row = channels_adjoin(v);
  const int64_t per_block = by_row ? 32 : kChannels;
  return launch(
      {dim3(unsigned((v.channels + per_block - 1) / per_block), unsigned(pieces)), dim3(kNormThreads), 0, stream},
      by_row ? weigh_by_row<T> : weigh_by_plane<T>, static_cast<const T*>(v.data), Rows(v), v.shift, weight,
      (v.rows() + pieces - 1) / pieces, scratch);
}

template <class Act> cudaError_t by_type(Dtype dtype, Act act) {
  switch (dtype) {
    case Dtype::float32: return act(float());
    case Dtype::float64: return act(double());
    case Dtype::float16: return act(Half());
    case Dtype::bfloat16: return act(Bfloat());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t squared_norms(const View& view, double* norms, cudaStream_t stream) {
  return by_type(view.dtype, [&](auto zero) { return start_norms<decltype(zero)>(view, norms, stream); });
}

int64_t norms_scratch(const View& view) { return pieces_of(view.rows()) * view.channels; }

cudaError_t weigh(const View& view, const double* weight, double* scratch, double* out, double* also,
                  cudaStream_t stream) {
  const int64_t pieces = pieces_of(view.rows());
  const cudaError_t error = by_type(
      view.dtype, [&](auto zero) { return start_weigh<decltype(zero)>(view, weight, scratch, pieces, stream); });
  return error != cudaSuccess ? error : add_up(scratch, pieces, view.channels, out, also, stream);
}

cudaError_t inner_product(const double* a, const double* b, int64_t n, double* scratch, double* out,
                          cudaStream_t stream) {
  const int64_t pieces = pieces_of(n);
  const cudaError_t error = launch({dim3(unsigned(pieces)), dim3(kNormThreads), 0, stream}, inner_products, a, b, n,
                                   (n + pieces - 1) / pieces, scratch);
  return error != cudaSuccess ? error : add_up(scratch, pieces, 1, out, nullptr, stream);
}

}  // namespace prunecca::cuda
