// The covariance kernels of a CUDA device: everything is queued on the caller's stream, nothing is waited for.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bind/array_caster.hpp"
#include "bind/views.hpp"
#include "cuda/covariance.cuh"
#include "cuda/device_guard.hpp"

namespace py = pybind11;

namespace prunecca {

namespace {

using Pairs = std::vector<std::pair<int, int>>;
using Optional = std::optional<Array>;

struct Request {
  std::vector<cuda::View> views;
  std::vector<cuda::Pair> pairs;
  cuda::Problem problem;
  int device = -1;

  Request(const std::vector<Array>& arrays, const std::vector<int>& channel_axes, const Pairs& wanted, bool float64) {
    PRUNECCA_CHECK(!arrays.empty() && arrays.size() == channel_axes.size(), arrays.size(), " views but ", channel_axes.size(), " channel axes");
    device = arrays[0].device;
    for (size_t v = 0; v < arrays.size(); ++v) {
      PRUNECCA_CHECK(!arrays[v].on_host() && arrays[v].device == device, "view ", v, " is on device ", arrays[v].device,
                     "; expected all on one CUDA device");
      views.push_back(to_view<cuda::View>(arrays[v], channel_axes[v]));
      PRUNECCA_CHECK(views[v].rows() == views[0].rows(), "view ", v, " has ", views[v].rows(), " rows and view 0 has ",
                     views[0].rows(), "; all must share their rows");
    }
    for (auto [i, j] : wanted) {
      PRUNECCA_CHECK(0 <= i && i <= j && j < int(arrays.size()), "pair (", i, ", ", j, ") is not two views in their order");
      pairs.push_back({i, j, nullptr, nullptr});
    }
    problem.views = views.data(), problem.n_views = int(views.size());
    problem.pairs = pairs.data(), problem.n_pairs = int(pairs.size());
    problem.float64 = float64;
  }

  template <class T> T* memory(const Array& array, Dtype dtype, int64_t size, const char* what) const {
    PRUNECCA_CHECK(array.device == device && array.dtype == dtype && array.contiguous() && array.size() == size, what, " must be ", size,
                   " contiguous values of the right type on device ", device, ", but holds ", array.size(), " on ", array.device);
    return array.as<T>();
  }
};

// Bytes; 0 when the kernels cannot take these views as they are (see cuda/covariance.cuh).
size_t workspace(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs,
                 const std::vector<bool>& counted, bool norms, bool float64) {
  Request request(views, channel_axes, pairs, float64);
  PRUNECCA_CHECK(counted.size() == views.size(), "one flag is needed per view");
  double mark = 0;  // only whether it is null is looked at
  for (size_t v = 0; v < views.size(); ++v) request.views[v].sum = counted[v] ? &mark : nullptr;
  if (norms) for (auto& pair : request.pairs) pair.norms = &mark;
  return cuda::workspace_bytes(request.problem);
}

void update(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs, const std::vector<Array>& shifts,
            const std::vector<Optional>& sums, const std::vector<Array>& grams, const std::vector<Array>& norms, bool float64,
            const Array& workspace, const Array& note, int64_t batch, uintptr_t stream) {
  Request request(views, channel_axes, pairs, float64);
  PRUNECCA_CHECK(shifts.size() == views.size() && sums.size() == views.size(), "one shift and one sum are needed per view");
  PRUNECCA_CHECK(grams.size() == pairs.size() && (norms.empty() || norms.size() == pairs.size()), "one gram is needed per pair");
  for (size_t v = 0; v < views.size(); ++v) {
    auto& view = request.views[v];
    view.shift = request.memory<double>(shifts[v], Dtype::float64, view.channels, "a shift");
    view.sum = sums[v] ? request.memory<double>(*sums[v], Dtype::float64, view.channels, "a sum") : nullptr;
  }
  for (size_t k = 0; k < pairs.size(); ++k) {
    auto& pair = request.pairs[k];
    const int64_t ci = request.views[pair.i].channels, cj = request.views[pair.j].channels;
    pair.gram = request.memory<double>(grams[k], Dtype::float64, ci * cj, "a gram");
    pair.norms = norms.empty() ? nullptr : request.memory<double>(norms[k], Dtype::float64, 1 + ci + cj, "norms");
  }
  request.problem.nonfinite = request.memory<unsigned long long>(note, Dtype::int64, 1, "the note");
  request.problem.batch = batch;
  const size_t needed = cuda::workspace_bytes(request.problem), given = size_t(workspace.size()) * size_of(workspace.dtype);
  PRUNECCA_CHECK(workspace.device == request.device && given >= needed && reinterpret_cast<uintptr_t>(workspace.data) % 256 == 0,
                 "the workspace has ", given, " bytes on device ", workspace.device, "; expected ", needed, " on device ",
                 request.device, ", aligned to 256");
  py::gil_scoped_release release;
  const cuda::DeviceGuard guard(request.device);
  cuda::check(cuda::update(request.problem, workspace.data, cuda::to_stream(stream)), "covariance_update_cuda");
}

}  // namespace

void register_covariance_cuda(py::module_& m) {
  m.def("covariance_workspace_cuda", &workspace, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("counted"),
        py::arg("norms"), py::arg("float64"));
  m.def("covariance_update_cuda", &update, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("shifts"),
        py::arg("sums"), py::arg("grams"), py::arg("norms"), py::arg("float64"), py::arg("workspace"), py::arg("note"),
        py::arg("batch"), py::arg("stream"),
        "Queues on the stream: all rows are added to sums, grams and norms. Where a sum is not finite, `note` keeps the "
        "least of batch << 40 | unsure << 39 | view << 32 | channel.");
}

}  // namespace prunecca
