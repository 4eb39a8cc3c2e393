#include "cuda/optimizers.cuh"

#include <cmath>
#include <tuple>
#include <type_traits>
#include <utility>

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

// ---- Penalties ------------------------------------------------------------------------------------------------------

template <class Real> struct Draw {  // as cpu/optimizers_kernel.cpp does it; the anchor is null where nothing pulls
  const Real* anchor;
  Real pull, l1, threshold;

  __device__ __forceinline__ Real gradient(Real g, Real weight, Real target) const {
    g += weight > 0 ? l1 : weight < 0 ? -l1 : Real(0);
    return anchor ? g + pull * (weight - target) : g;
  }
  __device__ __forceinline__ Real shrunk(Real next) const {
    const Real left = (next < 0 ? -next : next) - threshold;
    return left <= 0 ? Real(0) : next < 0 ? -left : left;  // what is no number stays none
  }
};

template <class Real, class Tensors>
__device__ __forceinline__ Draw<Real> find_draw(const Tensors& tensors, int pointer, int tensor, const Penalty& p,
                                                double threshold) {
  return {tensors.template at<const Real>(pointer, tensor), Real(p.pull), Real(p.l1), Real(threshold)};
}

// ---- Adam -----------------------------------------------------------------------------------------------------------

template <class Real> struct AdamNumbers {  // the rule and the tensor's own numbers, in the precision of the step
  Real gain1, beta1, beta2, gain2, epsilon, l2, shrink, step_size, root_scale;
  bool keep_masked;
};

template <bool kWhole, bool kDrawn, class T, class Real = RealOf<T>>
__device__ __forceinline__ void adam_chunk(T* weight, const T* gradient, Real* mean, Real* square, const uint8_t* mask,
                                           const Chunk& c, const AdamNumbers<Real>& n, const Draw<Real>& draw) {
  constexpr int kStage = kTogether<T>;
  Four<uint8_t> kept[kSteps];
  load_masks<T, kWhole>(kept, mask, c);
#pragma unroll
  for (int first = 0; first < kSteps; first += kStage) {
    Four<T> w[kStage]{}, g[kStage]{};
    Four<Real> m[kStage]{}, v[kStage]{}, anchor[kStage]{};
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      if (!any(kept[first + s])) continue;
      const int64_t i = c.four(first + s);
      w[s] = load_four<kWhole>(weight, i, c);
      g[s] = load_four<kWhole>(gradient, i, c);
      m[s] = load_four<kWhole>(mean, i, c);
      v[s] = load_four<kWhole>(square, i, c);
      if (kDrawn && draw.anchor) anchor[s] = load_four<kWhole>(draw.anchor, i, c);
    }
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      const int64_t i = c.four(first + s);
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const bool keep = kept[first + s].at[j] != 0;
        const Real old = widen(w[s].at[j]);
        Real grad = widen(g[s].at[j]) + n.l2 * old;
        if constexpr (kDrawn) grad = draw.gradient(grad, old, anchor[s].at[j]);
        const Real difference = grad - m[s].at[j];
        // From the nearer end: with a small beta1 the old mean, which may be much larger, must not cancel.
        const Real m1 = n.beta1 < Real(0.5) ? grad - n.beta1 * difference : m[s].at[j] + n.gain1 * difference;
        const Real v1 = n.beta2 * v[s].at[j] + n.gain2 * grad * grad;
        Real next = old * n.shrink - n.step_size * m1 / (sqrt(v1) * n.root_scale + n.epsilon);
        if constexpr (kDrawn) next = draw.shrunk(next);
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

// Bytes per element, float32: 16 read, 12 written, 1 of the mask; 13 where all of a four is masked. An anchor is 4 more.
template <class T, class Tensors, class Scales, bool kDrawn>
__global__ void __launch_bounds__(kBlock, sizeof(T) == 8 ? 2 : 3)
    adam_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Scales scales, AdamRule rule,
                Penalty penalty) {
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
  Draw<Real> draw{};
  if constexpr (kDrawn)
    draw = find_draw<Real>(tensors, 5, c.tensor, penalty, penalty.threshold * (given ? rule.schedule->rate : 1));
  c.whole() ? adam_chunk<true, kDrawn>(weight, gradient, mean, square, mask, c, n, draw)
            : adam_chunk<false, kDrawn>(weight, gradient, mean, square, mask, c, n, draw);
}

__global__ void advance_kernel(float* step, const float* rate, double log_beta1, double log_beta2, double decay,
                               Schedule* schedule) {
  const float now = *step + 1;
  *step = now;
  schedule->step_size = double(*rate) / -expm1(now * log_beta1);
  schedule->root_scale = 1 / sqrt(-expm1(now * log_beta2));
  schedule->shrink = 1 - double(*rate) * decay;
  schedule->rate = double(*rate);
}

// ---- SGD ------------------------------------------------------------------------------------------------------------

template <class Real> struct SgdNumbers {
  Real rate, l2, decay, gain, ahead, own;  // buffer = decay * buffer + gain * g; direction = ahead * buffer + own * g
  bool keep_masked;
};

template <bool kWhole, bool kDrawn, class T, class Real = RealOf<T>>
__device__ __forceinline__ void sgd_chunk(T* weight, const T* gradient, Real* momentum, const uint8_t* mask,
                                          const Chunk& c, const SgdNumbers<Real>& n, const Draw<Real>& draw) {
  constexpr int kStage = kTogether<T>;
  Four<uint8_t> kept[kSteps];
  load_masks<T, kWhole>(kept, mask, c);
#pragma unroll
  for (int first = 0; first < kSteps; first += kStage) {
    Four<T> w[kStage]{}, g[kStage]{};
    Four<Real> b[kStage]{}, anchor[kStage]{};
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      if (!any(kept[first + s])) continue;
      const int64_t i = c.four(first + s);
      w[s] = load_four<kWhole>(weight, i, c);
      g[s] = load_four<kWhole>(gradient, i, c);
      if (momentum && n.decay != 0) b[s] = load_four<kWhole>(momentum, i, c);
      if (kDrawn && draw.anchor) anchor[s] = load_four<kWhole>(draw.anchor, i, c);
    }
#pragma unroll
    for (int s = 0; s < kStage; ++s) {
      const int64_t i = c.four(first + s);
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const bool keep = kept[first + s].at[j] != 0;
        const Real old = widen(w[s].at[j]);
        Real grad = widen(g[s].at[j]) + n.l2 * old;
        if constexpr (kDrawn) grad = draw.gradient(grad, old, anchor[s].at[j]);
        const Real buffer = n.decay * b[s].at[j] + n.gain * grad;
        const Real direction = momentum ? n.ahead * buffer + n.own * grad : grad;
        b[s].at[j] = keep ? buffer : Real(0);
        Real next = old - n.rate * direction;
        if constexpr (kDrawn) next = draw.shrunk(next);
        if (keep || !n.keep_masked) narrow(keep ? next : Real(0), w[s].at[j]);
      }
      if (momentum) store_four<kWhole>(momentum, i, c, b[s]);
      if (any(kept[first + s]) || !n.keep_masked) store_four<kWhole>(weight, i, c, w[s]);
    }
  }
}

template <int kCapacity> struct SgdFirsts {
  unsigned char first[kCapacity];
};

// Bytes per element, float32: 12 read, 8 written, 1 of the mask; without momentum 8 read, 4 written. An
// anchor is 4 more.
template <class T, class Tensors, class Firsts, bool kDrawn>
__global__ void __launch_bounds__(kBlock, 4)
    sgd_kernel(const __grid_constant__ Tensors tensors, const __grid_constant__ Firsts firsts, SgdRule rule,
               Penalty penalty) {
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
  Draw<Real> draw{};
  if constexpr (kDrawn) {
    const double rate = rule.device_rate ? double(*rule.device_rate) : 1;
    draw = find_draw<Real>(tensors, 4, c.tensor, penalty, penalty.threshold * rate);
  }
  c.whole() ? sgd_chunk<true, kDrawn>(weight, gradient, momentum, mask, c, n, draw)
            : sgd_chunk<false, kDrawn>(weight, gradient, momentum, mask, c, n, draw);
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

// A tensor with the address of its anchor after its own.
template <class Tensor> struct Drawn : Tensor {
  static constexpr size_t kOwn = std::tuple_size_v<decltype(Tensor{}.addresses())>;
  std::array<const void*, kOwn + 1> addresses() const {
    std::array<const void*, kOwn + 1> all{};
    const auto own = Tensor::addresses();
    for (size_t i = 0; i < kOwn; ++i) all[i] = own[i];
    all[kOwn] = this->penalty.anchor;
    return all;
  }
};
constexpr int kDrawnTable = 384;  // with one address more, within the limit of 32764 B

// Calls start(tensors, penalty, whether they have one) for all tensors whose penalties have the same numbers: a launch
// for those that are drawn, and one for the others.
template <class Tensor, class Start> cudaError_t by_penalty(const std::vector<Tensor>& tensors, Start start) {
  std::vector<Tensor> plain;
  std::vector<Drawn<Tensor>> left;
  for (const Tensor& t : tensors) {
    if (t.penalty.any())
      left.push_back({t});
    else
      plain.push_back(t);
  }
  cudaError_t error = plain.empty() ? cudaSuccess : start(plain, Penalty{}, std::false_type{});
  while (error == cudaSuccess && !left.empty()) {
    const Penalty p = left.front().penalty;
    std::vector<Drawn<Tensor>> alike, others;
    for (const auto& t : left) {
      const bool same = t.penalty.pull == p.pull && t.penalty.l1 == p.l1 && t.penalty.threshold == p.threshold;
      (same ? alike : others).push_back(t);
    }
    error = start(alike, p, std::true_type{});
    left = std::move(others);
  }
  return error;
}

}  // namespace

cudaError_t adam_step(const std::vector<AdamTensor>& tensors, Dtype dtype, const AdamRule& rule, cudaStream_t stream) {
  return with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    return by_penalty(tensors, [&](const auto& alike, const Penalty& penalty, auto drawn) {
      constexpr bool kDrawn = decltype(drawn)::value;
      return for_tables<5 + kDrawn, kSmallTable, kDrawn ? kDrawnTable : kLargeTable>(alike, [&](const auto& table) {
        using Tensors = std::decay_t<decltype(table)>;
        AdamScales<Tensors::kCapacity> scales;
        for (int t = 0; t < table.count; ++t) {
          scales.step_size[t] = alike[size_t(table.index[t])].step_size;
          scales.root_scale[t] = alike[size_t(table.index[t])].root_scale;
        }
        static_assert(sizeof(table) + sizeof(scales) + sizeof(rule) + sizeof(penalty) <=
                      (Tensors::kCapacity == kSmallTable ? 4096 : 32764));
        return launch({table.chunks(), kBlock, 0, stream},
                      adam_kernel<T, Tensors, AdamScales<Tensors::kCapacity>, kDrawn>, table, scales, rule, penalty);
      });
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
    return by_penalty(tensors, [&](const auto& alike, const Penalty& penalty, auto drawn) {
      constexpr bool kDrawn = decltype(drawn)::value;
      return for_tables<4 + kDrawn, kSmallTable, kDrawn ? kDrawnTable : kLargeTable>(alike, [&](const auto& table) {
        using Tensors = std::decay_t<decltype(table)>;
        SgdFirsts<Tensors::kCapacity> firsts;
        for (int t = 0; t < table.count; ++t) firsts.first[t] = alike[size_t(table.index[t])].first;
        return launch({table.chunks(), kBlock, 0, stream},
                      sgd_kernel<T, Tensors, SgdFirsts<Tensors::kCapacity>, kDrawn>, table, firsts, rule, penalty);
      });
    });
  });
}

}  // namespace prunecca::cuda
