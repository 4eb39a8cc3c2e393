// The optimizer steps: all tensors of one step in one call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "bind/checks.hpp"
#include "cpu/optimizers.hpp"
#ifdef PRUNECCA_HAVE_CUDA
#include "cuda/device_guard.hpp"
#include "cuda/optimizers.cuh"
#endif

namespace py = pybind11;

namespace prunecca {

namespace {

using Masks = std::vector<std::optional<Array>>;

// For each weight: anchor, pull, l1, threshold. An empty list: no weight has a penalty.
using Penalties = std::vector<std::tuple<std::optional<Array>, double, double, double>>;

const uint8_t* mask_of(const std::optional<Array>& mask, const Array& weight) {
  if (!mask) return nullptr;
  check_mask(*mask, weight);
  return mask->as<uint8_t>();
}

void check_weight(const Array& weight, const Array& gradient) {
  PRUNECCA_CHECK(weight.dtype <= Dtype::bfloat16 && gradient.dtype == weight.dtype,
                 "given a gradient of another dtype than its weight; expected one floating dtype for both");
  PRUNECCA_CHECK(dense(weight), "given a weight whose memory has gaps; expected a dense tensor, call .contiguous()");
  check_like(gradient, weight, "gradient");
}

void check_moment(const Array& moment, const Array& weight) {
  const Dtype expected = weight.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
  PRUNECCA_CHECK(moment.dtype == expected,
                 "given a moment of another dtype than the step computes in; "
                 "expected float64 for float64 weights and float32 for all others");
  check_like(moment, weight, "moment");
}

template <class Tensor>
void set_penalties(std::vector<Tensor>& tensors, const Arrays& weights, const Penalties& penalties) {
  if (penalties.empty()) return;
  check_same_length(penalties.size(), weights.size(), "penalties");
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& [anchor, pull, l1, threshold] = penalties[i];
    if (anchor) check_moment(*anchor, weights[i]);
    PRUNECCA_CHECK(pull >= 0 && l1 >= 0 && threshold >= 0, "given a penalty below 0; expected 0 or more");
    tensors[i].penalty = {anchor ? anchor->data : nullptr, pull, l1, threshold};
  }
}

#ifdef PRUNECCA_HAVE_CUDA
// One launch for each dtype that occurs.
template <class Tensor, class Start>
void step_on(int device, const std::vector<Tensor>& tensors, Start start, const char* what) {
  const cuda::DeviceGuard guard(device);
  for (Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16}) {
    std::vector<Tensor> alike;
    for (const Tensor& t : tensors)
      if (t.dtype == dtype) alike.push_back(t);
    if (!alike.empty()) cuda::check(start(alike, dtype), what);
  }
}
#endif

// Without what depends on the step.
std::vector<AdamTensor> adam_tensors(const Arrays& weights, const Arrays& gradients, const Arrays& means,
                                     const Arrays& squares, const Masks& masks) {
  check_same_length(gradients.size(), weights.size(), "gradients");
  check_same_length(means.size(), weights.size(), "first moments");
  check_same_length(squares.size(), weights.size(), "second moments");
  check_same_length(masks.size(), weights.size(), "masks");
  std::vector<AdamTensor> tensors;
  for (size_t i = 0; i < weights.size(); ++i) {
    check_weight(weights[i], gradients[i]);
    check_moment(means[i], weights[i]);
    check_moment(squares[i], weights[i]);
    tensors.push_back({weights[i].data, gradients[i].data, means[i].data, squares[i].data,
                       mask_of(masks[i], weights[i]), weights[i].size(), weights[i].dtype, 0, 0});
  }
  return tensors;
}

void adam_step(const Arrays& weights, const Arrays& gradients, const Arrays& means, const Arrays& squares,
               const Masks& masks, const std::vector<int64_t>& steps, double lr, double beta1, double beta2,
               double epsilon, double l2, double shrink, bool keep_masked, int threads, uintptr_t stream,
               const Penalties& penalties) {
  std::vector<AdamTensor> tensors = adam_tensors(weights, gradients, means, squares, masks);
  set_penalties(tensors, weights, penalties);
  check_same_length(steps.size(), weights.size(), "steps");
  for (size_t i = 0; i < weights.size(); ++i) {
    PRUNECCA_CHECK(steps[i] > 0, "given step ", steps[i], "; expected the number of the step, from 1");
    const double step = static_cast<double>(steps[i]);
    tensors[i].step_size = lr / (1 - std::pow(beta1, step));
    tensors[i].root_scale = 1 / std::sqrt(1 - std::pow(beta2, step));
  }
  const int device = common_device(weights);
#ifdef PRUNECCA_HAVE_CUDA
  if (device >= 0) {
    const AdamRule rule{beta1, beta2, epsilon, l2, shrink, keep_masked};
    return step_on(
        device, tensors,
        [&](const auto& alike, Dtype dtype) { return cuda::adam_step(alike, dtype, rule, cuda::to_stream(stream)); },
        "adam_step");
  }
#endif
  (void)stream;
  only_host(device);
  check_threads(threads);
  py::gil_scoped_release unlocked;
  cpu::adam_step(tensors, {beta1, beta2, epsilon, l2, shrink, keep_masked}, threads);
}

// A number, or a few, in the memory of the device that has the weights.
void check_numbers(const Array& numbers, Dtype dtype, int64_t size, int device, const char* what) {
  PRUNECCA_CHECK(device >= 0,
                 "given weights on the host; expected weights on a CUDA device for a step that can be captured");
  PRUNECCA_CHECK(numbers.device == device && numbers.dtype == dtype && numbers.contiguous() && numbers.size() == size,
                 "given ", what, " of ", numbers.size(), " numbers on device ", numbers.device, "; expected ", size,
                 dtype == Dtype::float64 ? " float64" : " float32", " on device ", device);
}

// The numbers of the next step, on the device: *step grows by one, and schedule = (step size, root scale, shrink,
// rate).
void adam_advance(const Array& step, const Array& rate, double beta1, double beta2, double decay, const Array& schedule,
                  uintptr_t stream) {
  check_numbers(step, Dtype::float32, 1, schedule.device, "a step");
  check_numbers(rate, Dtype::float32, 1, schedule.device, "a learning rate");
  check_numbers(schedule, Dtype::float64, 4, schedule.device, "a schedule");
#ifdef PRUNECCA_HAVE_CUDA
  const cuda::DeviceGuard guard(schedule.device);
  cuda::check(cuda::advance(step.as<float>(), rate.as<float>(), beta1, beta2, decay, schedule.as<Schedule>(),
                            cuda::to_stream(stream)),
              "adam_advance");
#else
  (void)beta1, (void)beta2, (void)decay, (void)stream;
  only_host(schedule.device);
#endif
}

// A step whose numbers the device has: nothing of it changes from one replay of a CUDA graph to the next. The threshold
// of a penalty is times the learning rate there.
void adam_step_scheduled(const Arrays& weights, const Arrays& gradients, const Arrays& means, const Arrays& squares,
                         const Masks& masks, const Array& schedule, double beta1, double beta2, double epsilon,
                         double l2, bool keep_masked, uintptr_t stream, const Penalties& penalties) {
  std::vector<AdamTensor> tensors = adam_tensors(weights, gradients, means, squares, masks);
  set_penalties(tensors, weights, penalties);
  const int device = common_device(weights);
  check_numbers(schedule, Dtype::float64, 4, device, "a schedule");
#ifdef PRUNECCA_HAVE_CUDA
  const AdamRule rule{beta1, beta2, epsilon, l2, 1, keep_masked, schedule.as<Schedule>()};
  step_on(
      device, tensors,
      [&](const auto& alike, Dtype dtype) { return cuda::adam_step(alike, dtype, rule, cuda::to_stream(stream)); },
      "adam_step");
#else
  (void)beta1, (void)beta2, (void)epsilon, (void)l2, (void)keep_masked, (void)stream;
  only_host(device);
#endif
}

// rate: null where it is a number of the host, lr.
void sgd_step_with(const Arrays& weights, const Arrays& gradients, const Arrays& momenta, const Masks& masks,
                   const std::vector<bool>& first, const Array* rate, double lr, double momentum, double dampening,
                   double l2, bool nesterov, bool keep_masked, int threads, uintptr_t stream,
                   const Penalties& penalties) {
  const bool moving = momentum != 0;
  check_same_length(gradients.size(), weights.size(), "gradients");
  check_same_length(momenta.size(), moving ? weights.size() : 0, "momentum buffers");
  check_same_length(masks.size(), weights.size(), "masks");
  check_same_length(first.size(), weights.size(), "flags of the first step");
  std::vector<SgdTensor> tensors;
  for (size_t i = 0; i < weights.size(); ++i) {
    check_weight(weights[i], gradients[i]);
    if (moving) check_moment(momenta[i], weights[i]);
    tensors.push_back({weights[i].data, gradients[i].data, moving ? momenta[i].data : nullptr,
                       mask_of(masks[i], weights[i]), weights[i].size(), weights[i].dtype, first[i]});
  }
  set_penalties(tensors, weights, penalties);
  const int device = common_device(weights);
  if (rate) check_numbers(*rate, Dtype::float32, 1, device, "a learning rate");
#ifdef PRUNECCA_HAVE_CUDA
  if (device >= 0) {
    const SgdRule rule{lr, momentum, dampening, l2, nesterov, keep_masked, rate ? rate->as<float>() : nullptr};
    return step_on(
        device, tensors,
        [&](const auto& alike, Dtype dtype) { return cuda::sgd_step(alike, dtype, rule, cuda::to_stream(stream)); },
        "sgd_step");
  }
#endif
  (void)stream;
  only_host(device);
  check_threads(threads);
  py::gil_scoped_release unlocked;
  cpu::sgd_step(tensors, {lr, momentum, dampening, l2, nesterov, keep_masked}, threads);
}

void sgd_step(const Arrays& weights, const Arrays& gradients, const Arrays& momenta, const Masks& masks,
              const std::vector<bool>& first, double lr, double momentum, double dampening, double l2, bool nesterov,
              bool keep_masked, int threads, uintptr_t stream, const Penalties& penalties) {
  sgd_step_with(weights, gradients, momenta, masks, first, nullptr, lr, momentum, dampening, l2, nesterov, keep_masked,
                threads, stream, penalties);
}

void sgd_step_scheduled(const Arrays& weights, const Arrays& gradients, const Arrays& momenta, const Masks& masks,
                        const std::vector<bool>& first, const Array& rate, double momentum, double dampening, double l2,
                        bool nesterov, bool keep_masked, uintptr_t stream, const Penalties& penalties) {
  sgd_step_with(weights, gradients, momenta, masks, first, &rate, 0, momentum, dampening, l2, nesterov, keep_masked, 1,
                stream, penalties);
}

}  // namespace

void register_optimizers(py::module_& m) {
  m.def("adam_step", &adam_step, py::arg("weights"), py::arg("gradients"), py::arg("means"), py::arg("squares"),
        py::arg("masks"), py::arg("steps"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("epsilon"),
        py::arg("l2"), py::arg("shrink"), py::arg("keep_masked"), py::arg("threads"), py::arg("stream"),
        py::arg("penalties") = py::list());
  m.def("sgd_step", &sgd_step, py::arg("weights"), py::arg("gradients"), py::arg("momenta"), py::arg("masks"),
        py::arg("first"), py::arg("lr"), py::arg("momentum"), py::arg("dampening"), py::arg("l2"), py::arg("nesterov"),
        py::arg("keep_masked"), py::arg("threads"), py::arg("stream"), py::arg("penalties") = py::list());
  m.def("adam_advance", &adam_advance, py::arg("step"), py::arg("rate"), py::arg("beta1"), py::arg("beta2"),
        py::arg("decay"), py::arg("schedule"), py::arg("stream"));
  m.def("adam_step_scheduled", &adam_step_scheduled, py::arg("weights"), py::arg("gradients"), py::arg("means"),
        py::arg("squares"), py::arg("masks"), py::arg("schedule"), py::arg("beta1"), py::arg("beta2"),
        py::arg("epsilon"), py::arg("l2"), py::arg("keep_masked"), py::arg("stream"),
        py::arg("penalties") = py::list());
  m.def("sgd_step_scheduled", &sgd_step_scheduled, py::arg("weights"), py::arg("gradients"), py::arg("momenta"),
        py::arg("masks"), py::arg("first"), py::arg("rate"), py::arg("momentum"), py::arg("dampening"), py::arg("l2"),
        py::arg("nesterov"), py::arg("keep_masked"), py::arg("stream"), py::arg("penalties") = py::list());
}

}  // namespace prunecca
