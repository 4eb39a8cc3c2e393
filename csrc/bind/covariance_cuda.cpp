// The covariance kernels of a CUDA device: everything is queued on the caller's stream, nothing is waited for.
#include <optional>
#include <vector>

#include "bind/views.hpp"
#include "cuda/covariance.cuh"
#include "cuda/device_guard.hpp"

namespace py = pybind11;

namespace prunecca {

namespace {

using Pairs = std::vector<std::pair<int, int>>;

void check_on_device(const std::vector<Array>& views, const Pairs& pairs) {
  PRUNECCA_CHECK(!views.empty() && !views[0].on_host(), "given ", views.size(), " views, the first ",
                 views.empty() ? "missing" : "on the host", "; expected all on one CUDA device");
  for (auto [i, j] : pairs) PRUNECCA_CHECK(i <= j, "pair (", i, ", ", j, ") is not two views in their order");
}

// Bytes; 0 when the kernels cannot take these views as they are (see cuda/covariance.cuh).
size_t workspace(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs,
                 const std::vector<bool>& counted, bool norms, bool float64) {
  check_on_device(views, pairs);
  PRUNECCA_CHECK(counted.size() == views.size(), "one flag is needed per view");
  Request request(views, channel_axes, pairs, float64);
  for (size_t v = 0; v < views.size(); ++v)
    if (counted[v]) request.ask_for_sum(int(v));
  if (norms) request.ask_for_norms();
  return cuda::workspace_bytes(request.problem);
}

void update(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs,
            const std::vector<Array>& shifts, const std::vector<std::optional<Array>>& sums,
            const std::vector<Array>& grams, const std::vector<Array>& norms, bool float64, const Array& workspace,
            const Array& note, int64_t batch, uintptr_t stream) {
  check_on_device(views, pairs);
  Request request(views, channel_axes, pairs, float64);
  const int device = views[0].device;
  request.fill(shifts, sums, grams, norms, device);
  PRUNECCA_CHECK(note.device == device && note.dtype == Dtype::int64 && note.size() == 1,
                 "the note must be one int64 on device ", device, ", but holds ", note.size(), " on ", note.device);
  if (request.views[0].rows() == 0) return;
  const size_t needed = cuda::workspace_bytes(request.problem),
               given = size_t(workspace.size()) * size_of(workspace.dtype);
  PRUNECCA_CHECK(workspace.device == device && workspace.contiguous() && given >= needed &&
                     reinterpret_cast<uintptr_t>(workspace.data) % 256 == 0,
                 "the workspace has ", given, " bytes on device ", workspace.device, "; expected ", needed,
                 " on device ", device, ", aligned to 256");
  py::gil_scoped_release release;
  const cuda::DeviceGuard guard(device);
  const cuda::NonFiniteNote where{note.as<unsigned long long>(), batch};
  cuda::check(cuda::update(request.problem, where, workspace.data, cuda::to_stream(stream)), "covariance_update_cuda");
}

}  // namespace

void register_covariance_cuda(py::module_& m) {
  m.def("covariance_workspace_cuda", &workspace, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"),
        py::arg("counted"), py::arg("norms"), py::arg("float64"));
  m.def(
      "covariance_update_cuda", &update, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("shifts"),
      py::arg("sums"), py::arg("grams"), py::arg("norms"), py::arg("float64"), py::arg("workspace"), py::arg("note"),
      py::arg("batch"), py::arg("stream"),
      "Queues on the stream: all rows are added to sums, grams and norms. Where a sum is not finite, `note` keeps the "
      "least of batch << 40 | unsure << 39 | view << 32 | channel.");
}

}  // namespace prunecca
