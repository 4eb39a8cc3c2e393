#include <vector>

#include "bind/array_caster.hpp"
#include "bind/views.hpp"
#include "check.hpp"
#include "cpu/covariance.hpp"

namespace py = pybind11;

namespace prunecca {

namespace {

struct Request {
  std::vector<cpu::View> views;
  std::vector<cpu::Pair> pairs;
  cpu::Problem problem;
};

Request to_request(const std::vector<Array>& arrays, const std::vector<int>& channel_axes,
                   const std::vector<std::pair<int, int>>& pairs, bool float64, int threads) {
  PRUNECCA_CHECK(arrays.size() == channel_axes.size(), arrays.size(), " views but ", channel_axes.size(), " channel axes");
  PRUNECCA_CHECK(threads >= 1, "threads is ", threads, "; expected at least 1");
  Request request;
  for (size_t v = 0; v < arrays.size(); ++v) {
    PRUNECCA_CHECK(arrays[v].on_host(), "view ", v, " is on a CUDA device; expected host memory");
    request.views.push_back(to_view<cpu::View>(arrays[v], channel_axes[v]));
    PRUNECCA_CHECK(request.views[v].rows() == request.views[0].rows(), "view ", v, " has ", request.views[v].rows(),
                   " rows and view 0 has ", request.views[0].rows(), "; all must share their rows");
  }
  for (auto [i, j] : pairs) {
    const int n = int(arrays.size());
    PRUNECCA_CHECK(i >= 0 && j >= 0 && i < n && j < n, "pair (", i, ", ", j, ") names a view that is not there");
    request.pairs.push_back({i, j, nullptr, nullptr});
  }
  request.problem = {request.views.data(), int(request.views.size()), request.pairs.data(), int(request.pairs.size()), float64, threads};
  return request;
}

double* float64_memory(const Array& array, int64_t size, const char* what) {
  PRUNECCA_CHECK(array.on_host() && array.dtype == Dtype::float64 && array.contiguous() && array.size() == size, what,
                 " must be ", size, " contiguous float64 values on the host, but holds ", array.size());
  return array.as<double>();
}

}  // namespace

void register_covariance(py::module_& m) {
  m.def(
      "covariance_workspace",
      [](const std::vector<Array>& views, const std::vector<int>& channel_axes, const std::vector<std::pair<int, int>>& pairs,
         bool norms, bool float64, int threads) {
        Request request = to_request(views, channel_axes, pairs, float64, threads);
        double mark = 0;  // only whether it is null is looked at
        if (norms) for (auto& pair : request.pairs) pair.norms = &mark;
        return cpu::workspace_bytes(request.problem) + 64;
      },
      py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("norms"), py::arg("float64"), py::arg("threads"));
  m.def(
      "covariance_update",
      [](const std::vector<Array>& views, const std::vector<int>& channel_axes, const std::vector<std::pair<int, int>>& pairs,
         const std::vector<Array>& shifts, const std::vector<std::optional<Array>>& sums, const std::vector<Array>& grams,
         const std::vector<Array>& norms, bool float64, int threads, const Array& workspace) {
        Request request = to_request(views, channel_axes, pairs, float64, threads);
        PRUNECCA_CHECK(shifts.size() == views.size() && sums.size() == views.size(), "one shift and one sum are needed per view");
        PRUNECCA_CHECK(grams.size() == pairs.size() && (norms.empty() || norms.size() == pairs.size()), "one gram is needed per pair");
        for (size_t v = 0; v < views.size(); ++v) {
          request.views[v].shift = float64_memory(shifts[v], request.views[v].channels, "a shift");
          request.views[v].sum = sums[v] ? float64_memory(*sums[v], request.views[v].channels, "a sum") : nullptr;
        }
        for (size_t k = 0; k < pairs.size(); ++k) {
          auto& pair = request.pairs[k];
          const int64_t ci = request.views[pair.i].channels, cj = request.views[pair.j].channels;
          pair.gram = float64_memory(grams[k], ci * cj, "a gram");
          pair.norms = norms.empty() ? nullptr : float64_memory(norms[k], 1 + ci + cj, "norms");
        }
        const auto address = (reinterpret_cast<uintptr_t>(workspace.data) + 63) & ~uintptr_t(63);
        const size_t room = size_t(workspace.size()) * size_of(workspace.dtype) - (address - reinterpret_cast<uintptr_t>(workspace.data));
        const size_t needed = cpu::workspace_bytes(request.problem);
        PRUNECCA_CHECK(workspace.on_host() && room >= needed, "the workspace has ", room, " bytes; expected ", needed);
        py::gil_scoped_release release;
        const cpu::NonFinite bad = cpu::update(request.problem, reinterpret_cast<void*>(address));
        return std::make_pair(bad.view, bad.channel);
      },
      py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("shifts"), py::arg("sums"), py::arg("grams"),
      py::arg("norms"), py::arg("float64"), py::arg("threads"), py::arg("workspace"),
      "Adds the rows of all views to sums, grams (upper triangle where a view meets itself) and norms; returns the view and "
      "channel of the first non-finite sum (then nothing was added), or (-1, -1).");
}

}  // namespace prunecca
