// Plain loops: the compiler vectorises them for the level's instructions.
#include "cpu/optimizers_kernel.hpp"

#include "half.hpp"

namespace prunecca::cpu {
namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

// x where the mask byte is set, otherwise +0: also for NaN and -0, which a product would keep.
inline float kept(float x, uint8_t mask) {
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, x) & uint32_t(-int32_t(mask)));
}
inline double kept(double x, uint8_t mask) {
  return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, x) & uint64_t(-int64_t(mask)));
}

// By bits: a branch, or a comparison that hangs on another, would keep the loops from being vectorised.
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }
inline float signed_as(float x, float sign) { return __builtin_copysignf(x, sign); }
inline double signed_as(double x, double sign) { return __builtin_copysign(x, sign); }

enum class Extra { none, l1, pull };  // pull: with the terms of l1

// The numbers of a penalty in the precision of the step. Without one, the loops below are as if it were not there.
template <class Real> struct Drawn {
  const Real* __restrict anchor;
  Real pull, l1, threshold;

  Drawn(const Penalty& p, int64_t begin)
      : anchor(p.anchor ? static_cast<const Real*>(p.anchor) + begin : nullptr),
        pull(Real(p.pull)),
        l1(Real(p.l1)),
        threshold(Real(p.threshold)) {}
  template <Extra kExtra> Real gradient(Real g, Real weight, int64_t i) const {
    if constexpr (kExtra != Extra::none) g += kept(signed_as(l1, weight), weight != 0);
    if constexpr (kExtra == Extra::pull) g += pull * (weight - anchor[i]);
    return g;
  }
  template <Extra kExtra> Real shrunk(Real next) const {
    if constexpr (kExtra == Extra::none) return next;
    const Real left = magnitude(next) - threshold;
    return kept(signed_as(left, next), !(left <= 0));  // what is no number stays none
  }
};

// Half-precision weights are widened as they are read, stepped with float32 moments, and rounded as they are written.
struct Adam {
  using Tensor = AdamTensor;
  using Rule = AdamRule;

  template <class Real, bool kMask, bool kKeep, Extra kExtra, class Stored>
  static void run(Stored* __restrict weight, const Stored* __restrict gradient, Real* __restrict mean,
                  Real* __restrict square, const uint8_t* __restrict mask, int64_t n, const Tensor& t, const Rule& rule,
                  const Drawn<Real> drawn) {
    const Real l2 = Real(rule.l2), shrink = Real(rule.shrink), epsilon = Real(rule.epsilon);
    const Real beta1 = Real(rule.beta1), gain1 = Real(1 - rule.beta1), beta2 = Real(rule.beta2),
               gain2 = Real(1 - rule.beta2);
    const Real step_size = Real(t.step_size), root_scale = Real(t.root_scale);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const Real before = Real(widen(weight[i])), w = before * shrink,
                 g = drawn.template gradient<kExtra>(Real(widen(gradient[i])) + l2 * before, before, i);
      // From the nearer end: with a small beta1 the old mean, which may be much larger, must not cancel.
      const Real difference = g - mean[i];
      Real m = beta1 < Real(0.5) ? g - beta1 * difference : mean[i] + gain1 * difference;
      Real v = beta2 * square[i] + gain2 * g * g;
      Real next = drawn.template shrunk<kExtra>(w - step_size * m / (square_root(v) * root_scale + epsilon));
      if constexpr (kMask) {
        m = kept(m, mask[i]);
        v = kept(v, mask[i]);
        next = kept(next, mask[i]);
        if constexpr (kKeep) next = mask[i] ? next : before;
      }
      mean[i] = m;
      square[i] = v;
      narrow(next, weight[i]);
    }
  }

  template <class Real> static Real* state(void* p, int64_t i) { return static_cast<Real*>(p) + i; }

  template <class Real, bool kMask, bool kKeep, Extra kExtra, class Stored>
  static void piece(Stored* weight, const Stored* gradient, int64_t begin, int64_t n, const Tensor& t,
                    const Rule& rule) {
    run<Real, kMask, kKeep, kExtra>(weight, gradient, state<Real>(t.mean, begin), state<Real>(t.square, begin),
                                    kMask ? t.mask + begin : nullptr, n, t, rule, Drawn<Real>(t.penalty, begin));
  }
};

struct Sgd {
  using Tensor = SgdTensor;
  using Rule = SgdRule;

  template <class Real, bool kMask, bool kKeep, Extra kExtra, bool kMomentum, class Stored>
  static void run(Stored* __restrict weight, const Stored* __restrict gradient, Real* __restrict momentum,
                  const uint8_t* __restrict mask, int64_t n, const Tensor& t, const Rule& rule,
                  const Drawn<Real> drawn) {
    const Real rate = Real(rule.rate), l2 = Real(rule.l2);
    const Real decay = t.first ? Real(0) : Real(rule.momentum), gain = t.first ? Real(1) : Real(1 - rule.dampening);
    // The direction is gain_old * buffer + gain_new * gradient; Nesterov looks one step ahead.
    const Real ahead = rule.nesterov ? Real(rule.momentum) : Real(1), own = rule.nesterov ? Real(1) : Real(0);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const Real before = Real(widen(weight[i]));
      const Real g = drawn.template gradient<kExtra>(Real(widen(gradient[i])) + l2 * before, before, i);
      Real direction = g;
      if constexpr (kMomentum) {
        Real buffer = decay * momentum[i] + gain * g;
        direction = ahead * buffer + own * g;
        if constexpr (kMask) buffer = kept(buffer, mask[i]);
        momentum[i] = buffer;
      }
      Real next = drawn.template shrunk<kExtra>(before - rate * direction);
      if constexpr (kMask) {
        next = kept(next, mask[i]);
        if constexpr (kKeep) next = mask[i] ? next : before;
      }
      narrow(next, weight[i]);
    }
  }

  template <class Real, bool kMask, bool kKeep, Extra kExtra, class Stored>
  static void piece(Stored* weight, const Stored* gradient, int64_t begin, int64_t n, const Tensor& t,
                    const Rule& rule) {
    const uint8_t* mask = kMask ? t.mask + begin : nullptr;
    const Drawn<Real> drawn(t.penalty, begin);
    Real* momentum = t.momentum ? static_cast<Real*>(t.momentum) + begin : nullptr;
    if (momentum)
      run<Real, kMask, kKeep, kExtra, true>(weight, gradient, momentum, mask, n, t, rule, drawn);
    else
      run<Real, kMask, kKeep, kExtra, false>(weight, gradient, nullptr, mask, n, t, rule, drawn);
  }
};

template <class Method, Extra kExtra, class Real, class Stored>
void drawn_piece(Stored* weight, const Stored* gradient, int64_t begin, int64_t n, const typename Method::Tensor& t,
                 const typename Method::Rule& rule) {
  if (!t.mask) return Method::template piece<Real, false, false, kExtra>(weight, gradient, begin, n, t, rule);
  if (rule.keep_masked) return Method::template piece<Real, true, true, kExtra>(weight, gradient, begin, n, t, rule);
  Method::template piece<Real, true, false, kExtra>(weight, gradient, begin, n, t, rule);
}

template <class Method, class Real, class Stored>
void masked_piece(Stored* weight, const Stored* gradient, int64_t begin, int64_t n, const typename Method::Tensor& t,
                  const typename Method::Rule& rule) {
  if (t.penalty.anchor) return drawn_piece<Method, Extra::pull, Real>(weight, gradient, begin, n, t, rule);
  if (t.penalty.any()) return drawn_piece<Method, Extra::l1, Real>(weight, gradient, begin, n, t, rule);
  drawn_piece<Method, Extra::none, Real>(weight, gradient, begin, n, t, rule);
}

// Where the loops above would not be vectorised around the conversion (float16), weights are widened and rounded back a
// block at a time: a short one, so that all streams of the step come from memory side by side.
template <class Method, class Narrow>
void widened(int64_t begin, int64_t end, const typename Method::Tensor& t, const typename Method::Rule& rule) {
  constexpr int64_t kBlock = 128;
  alignas(64) float weight[kBlock], gradient[kBlock];
  Narrow* stored = static_cast<Narrow*>(t.weight);
  const Narrow* given = static_cast<const Narrow*>(t.gradient);
  for (; begin < end; begin += kBlock) {
    const int64_t n = end - begin < kBlock ? end - begin : kBlock;
    widen_all(stored + begin, weight, n);
    widen_all(given + begin, gradient, n);
    masked_piece<Method, float>(weight, gradient, begin, n, t, rule);
    narrow_all(weight, stored + begin, n);
  }
}

template <class Method>
void step_piece(const typename Method::Tensor& t, int64_t begin, int64_t end, const typename Method::Rule& rule) {
  const auto plain = [&](auto real, auto stored) {
    using Stored = decltype(stored);
    masked_piece<Method, decltype(real)>(static_cast<Stored*>(t.weight) + begin,
                                         static_cast<const Stored*>(t.gradient) + begin, begin, end - begin, t, rule);
  };
  switch (t.dtype) {
    case Dtype::float64: return plain(0.0, 0.0);
    case Dtype::float16: return widened<Method, Half>(begin, end, t, rule);
    case Dtype::bfloat16: return plain(0.0f, Bfloat{});
    default: return plain(0.0f, 0.0f);
  }
}

}  // namespace

StepKernel step_kernel(ThisLevel) { return {step_piece<Adam>, step_piece<Sgd>}; }

}  // namespace prunecca::cpu
