#include "cuda/optimizers.cuh"

#include <cmath>

#include "cuda/tensor_chunks.cuh"

namespace prunecca::cuda {
namespace {

template <class T> using RealOf = decltype(widen(T{}));

__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(double x, double& out) { out = x; }
__device__ __forceinline__ void narrow(float x, Half& out) { out = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, Bfloat& out) { out = __float2bfloat16_rn(x); }

// Fours of a thread whose loads are in flight together: what the registers hold.
template <class T> constexpr int kTogether = sizeof(T) == 8 ? 1 : 2;

template <class T, bool kWhole>
__device__ __forceinline__ void load_masks(Four<uint8_t> (&kept)[kSteps], const uint8_t* mask, const Chunk& c) {
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    if (mask) {
      kept[s] = load_four<kWhole>(mask, c.four(s), c);
    } else {
      kept[s] = {{1, 1, 1, 1}};
    }
  }
}
__device__ __forceinline__ bool any(const Four<uint8_t>& kept) {
  return kept.at[0] | kept.at[1] | kept.at[2] | kept.at[3];
}

// ---- Adam -----------------------------------------------------------------------------------------------------------

template <class Real> struct AdamNumbers {  // the rule and the tensor's own numbers, in the precision of the step
  Real gain1, beta1, beta2, gain2, epsilon, l2, shrink, step_size, root_scale;
  bool keep_masked;
};

template <bool kWhole, class T, class Real = RealOf<T>>
__device__ __forceinline__ void adam_chunk(T* weight, const T* gradient, Real* mean, Real* square, const uint8_t* mask,
                                           const Chunk& c, const AdamNumbers<Real>& n) {
  constexpr int kStage = kTogether<T>;
  Four<uint8_t> kept[kSteps];
  load_masks<T, kWhole>(kept, mask, c);
#pragma unroll
  for (int first = 0; first < kSteps; first += kStage) {
    Four<T> w[kStage]{}, g[kStage]{};
    Four<Real> m[kStage]{}, v[kStage]{};
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      if (!any(kept[first + s])) continue;
      const int64_t i = c.four(first + s);
      w[s] = load_four<kWhole>(weight, i, c);
      g[s] = load_four<kWhole>(gradient, i, c);
      m[s] = load_four<kWhole>(mean, i, c);
      v[s] = load_four<kWhole>(square, i, c);
    }
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      const int64_t i = c.four(first + s);
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const bool keep = kept[first + s].at[j] != 0;
        const Real old = widen(w[s].at[j]), grad = widen(g[s].at[j]) + n.l2 * old;
        const Real difference = grad - m[s].at[j];
        // From the nearer end: with a small beta1 the old mean, which may be much larger, must not cancel.
        const Real m1 = n.beta1 < Real(0.5) ? grad - n.beta1 * difference : m[s].at[j] + n.gain1 * difference;
        const Real v1 = n.beta2 * v[s].at[j] + n.gain2 * grad * grad;
        const Real next = old * n.shrink - n.step_size * m1 / (sqrt(v1) * n.root_scale + n.epsilon);
        m[s].at[j] = keep ? m1 : Real(0);
        v[s].at[j] = keep ? v1 : Real(0);
        if (keep || !n.keep_masked) narrow(keep ? next : Real(0), w[s].at[j]);
      }
      store_four<kWhole>(mean, i, c, m[s]);
      store_four<kWhole>(square, i, c, v[s]);
      if (any(kept[first + s]) || !n.keep_masked) store_four<kWhole>(weight, i, c, w[s]);
    }
  }
}

template <int kCapacity> struct AdamScales {
  double step_size[kCapacity], root_scale[kCapacity];
};

// Bytes per element, float32: 16 read, 12 written, 1 of the mask; 13 where all of a four is masked.
template <class T, class Tensors, class Scales>
__global__ void __launch_bounds__(kBlock, sizeof(T) == 8 ? 2 : 3)
    adam_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Scales scales, AdamRule rule) {
  using Real = RealOf<T>;
  const Chunk c = find_chunk(tensors, int(blockIdx.x));
  const bool given = rule.schedule != nullptr;
  const AdamNumbers<Real> n{Real(1 - rule.beta1),
                            Real(rule.beta1),
                            Real(rule.beta2),
                            Real(1 - rule.beta2),
                            Real(rule.epsilon),
                            Real(rule.l2),
                            Real(given ? rule.schedule->shrink : rule.shrink),
                            Real(given ? rule.schedule->step_size : scales.step_size[c.tensor]),
                            Real(given ? rule.schedule->root_scale : scales.root_scale[c.tensor]),
                            rule.keep_masked};
  T* weight = tensors.template at<T>(0, c.tensor);
  const T* gradient = tensors.template at<const T>(1, c.tensor);
  Real* mean = tensors.template at<Real>(2, c.tensor);
  Real* square = tensors.template at<Real>(3, c.tensor);
  const uint8_t* mask = tensors.template at<const uint8_t>(4, c.tensor);
  c.whole() ? adam_chunk<true>(weight, gradient, mean, square, mask, c, n)
            : adam_chunk<false>(weight, gradient, mean, square, mask, c, n);
}

__global__ void advance_kernel(float* step, const float* rate, double log_beta1, double log_beta2, double decay,
                               Schedule* schedule) {
  const float now = *step + 1;
  *step = now;
  schedule->step_size = double(*rate) / -expm1(now * log_beta1);
  schedule->root_scale = 1 / sqrt(-expm1(now * log_beta2));
  schedule->shrink = 1 - double(*rate) * decay;
}

// ---- SGD ------------------------------------------------------------------------------------------------------------

template <class Real> struct SgdNumbers {
  Real rate, l2, decay, gain, ahead, own;  // buffer = decay * buffer + gain * g; direction = ahead * buffer + own * g
  bool keep_masked;
};

template <bool kWhole, class T, class Real = RealOf<T>>
__device__ __forceinline__ void sgd_chunk(T* weight, const T* gradient, Real* momentum, const uint8_t* mask,
                                          const Chunk& c, const SgdNumbers<Real>& n) {
  constexpr int kStage = kTogether<T>;
  Four<uint8_t> kept[kSteps];
  load_masks<T, kWhole>(kept, mask, c);
#pragma unroll
  for (int first = 0; first < kSteps; first += kStage) {
    Four<T> w[kStage]{}, g[kStage]{};
    Four<Real> b[kStage]{};
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      if (!any(kept[first + s])) continue;
      const int64_t i = c.four(first + s);
      w[s] = load_four<kWhole>(weight, i, c);
      g[s] = load_four<kWhole>(gradient, i, c);
      if (momentum && n.decay != 0) b[s] = load_four<kWhole>(momentum, i, c);
    }
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      const int64_t i = c.four(first + s);
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const bool keep = kept[first + s].at[j] != 0;
        const Real old = widen(w[s].at[j]), grad = widen(g[s].at[j]) + n.l2 * old;
        const Real buffer = n.decay * b[s].at[j] + n.gain * grad;
        const Real direction = momentum ? n.ahead * buffer + n.own * grad : grad;
        b[s].at[j] = keep ? buffer : Real(0);
        if (keep || !n.keep_masked) narrow(keep ? old - n.rate * direction : Real(0), w[s].at[j]);
      }
      if (momentum) store_four<kWhole>(momentum, i, c, b[s]);
      if (any(kept[first + s]) || !n.keep_masked) store_four<kWhole>(weight, i, c, w[s]);
    }
  }
}

template <int kCapacity> struct SgdFirsts {
  unsigned char first[kCapacity];
};

// Bytes per element, float32: 12 read, 8 written, 1 of the mask; without momentum 8 read, 4 written.
template <class T, class Tensors, class Firsts>
__global__ void __launch_bounds__(kBlock, 4)
    sgd_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Firsts firsts, SgdRule rule) {
  using Real = RealOf<T>;
  const Chunk c = find_chunk(tensors, int(blockIdx.x));
  const bool first = firsts.first[c.tensor];
  const SgdNumbers<Real> n{Real(rule.device_rate ? double(*rule.device_rate) : rule.rate),
                           Real(rule.l2),
                           first ? Real(0) : Real(rule.momentum),
                           first ? Real(1) : Real(1 - rule.dampening),
                           rule.nesterov ? Real(rule.momentum) : Real(1),
                           rule.nesterov ? Real(1) : Real(0),
                           rule.keep_masked};
  T* weight = tensors.template at<T>(0, c.tensor);
  const T* gradient = tensors.template at<const T>(1, c.tensor);
  Real* momentum = tensors.template at<Real>(2, c.tensor);
  const uint8_t* mask = tensors.template at<const uint8_t>(3, c.tensor);
  c.whole() ? sgd_chunk<true>(weight, gradient, momentum, mask, c, n)
            : sgd_chunk<false>(weight, gradient, momentum, mask, c, n);
}

// ---- Launches -------------------------------------------------------------------------------------------------------

template <class Body> cudaError_t with_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float32: return body(float{});
    case Dtype::float64: return body(double{});
    case Dtype::float16: return body(Half{});
    case Dtype::bfloat16: return body(Bfloat{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t adam_step(const std::vector<AdamTensor>& tensors, Dtype dtype, const AdamRule& rule, cudaStream_t stream) {
  return with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    return for_tables<5>(tensors, [&](const auto& table) {
      using Tensors = std::decay_t<decltype(table)>;
      AdamScales<Tensors::kCapacity> scales;
      for (int t = 0; t < table.count; ++t) {
        scales.step_size[t] = tensors[size_t(table.index[t])].step_size;
        scales.root_scale[t] = tensors[size_t(table.index[t])].root_scale;
      }
      static_assert(sizeof(table) + sizeof(scales) + sizeof(rule) <=
                    (Tensors::kCapacity == kSmallTable ? 4096 : 32764));
      return launch({table.chunks(), kBlock, 0, stream}, adam_kernel<T, Tensors, AdamScales<Tensors::kCapacity>>, table,
                    scales, rule);
    });
  });
}

cudaError_t advance(float* step, const float* rate, double beta1, double beta2, double decoupled_decay,
                    Schedule* schedule, cudaStream_t stream) {
  return launch({1, 1, 0, stream}, advance_kernel, step, rate, std::log(beta1), std::log(beta2), decoupled_decay,
                schedule);
}

cudaError_t sgd_step(const std::vector<SgdTensor>& tensors, Dtype dtype, const SgdRule& rule, cudaStream_t stream) {
  return with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    return for_tables<4>(tensors, [&](const auto& table) {
      using Tensors = std::decay_t<decltype(table)>;
      SgdFirsts<Tensors::kCapacity> firsts;
      for (int t = 0; t < table.count; ++t) firsts.first[t] = tensors[size_t(table.index[t])].first;
      return launch({table.chunks(), kBlock, 0, stream}, sgd_kernel<T, Tensors, SgdFirsts<Tensors::kCapacity>>, table,
                    firsts, rule);
    });
  });
}

}  // namespace prunecca::cuda
