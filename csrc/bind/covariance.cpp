#include <optional>
#include <tuple>
#include <vector>

#include "bind/checks.hpp"
#include "bind/views.hpp"
#include "cpu/covariance.hpp"

namespace py = pybind11;

namespace prunecca {

namespace {

using Pairs = std::vector<std::pair<int, int>>;

void check_on_host(const std::vector<Array>& views, int threads) {
  check_threads(threads);
  for (size_t v = 0; v < views.size(); ++v)
    PRUNECCA_CHECK(views[v].on_host(), "view ", v, " is on a CUDA device; expected host memory");
}

// Numbers of the rows that count: ascending, so that each is there and none twice.
void keep(Request& request, const std::optional<Array>& kept) {
  if (!kept) return;
  const int64_t n = kept->size(), rows = request.views[0].rows();
  PRUNECCA_CHECK(kept->on_host() && kept->contiguous() && kept->dtype == Dtype::int64,
                 "the numbers of the rows that are kept must be contiguous int64 values on the host");
  const int64_t* number = kept->as<int64_t>();
  for (int64_t k = 0; k < n; ++k)
    PRUNECCA_CHECK(number[k] >= 0 && number[k] < rows && (k == 0 || number[k] > number[k - 1]), "row ", number[k],
                   " is kept of ", rows, "; expected ascending numbers of rows");
  static const int64_t none = 0;
  request.problem.kept = n ? number : &none;
  request.problem.n_kept = n;
}

size_t workspace(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs, bool norms,
                 bool float64, int threads, const std::optional<Array>& kept) {
  check_on_host(views, threads);
  Request request(views, channel_axes, pairs, float64);
  if (norms) request.ask_for_norms();
  keep(request, kept);
  return cpu::workspace_bytes(request.problem, threads) + 64;
}

using Outcome = std::tuple<const char*, int, int64_t, std::vector<int>>;

const char* words(cpu::Reason reason) {
  switch (reason) {
    case cpu::Reason::not_finite: return "not finite";
    case cpu::Reason::underflow: return "underflow";
    case cpu::Reason::off_centre: return "off centre";
    default: return "";
  }
}

Outcome update(const std::vector<Array>& views, const std::vector<int>& channel_axes, const Pairs& pairs,
               const std::vector<Array>& shifts, const std::vector<std::optional<Array>>& sums,
               const std::vector<Array>& grams, const std::vector<Array>& norms, bool float64, int threads,
               const Array& workspace, const std::vector<int64_t>& counts, bool any_range,
               const std::optional<Array>& kept) {
  check_on_host(views, threads);
  Request request(views, channel_axes, pairs, float64);
  request.fill(shifts, sums, grams, norms, -1);
  keep(request, kept);
  PRUNECCA_CHECK(counts.empty() || counts.size() == views.size(), counts.size(), " counts for ", views.size(),
                 " views; expected one each, or none");
  for (size_t v = 0; v < counts.size(); ++v) {
    PRUNECCA_CHECK(counts[v] >= 0, "view ", v, " has a count of ", counts[v], "; expected at least 0");
    request.views[v].count = counts[v];
  }
  const auto begin = reinterpret_cast<uintptr_t>(workspace.data), address = (begin + 63) & ~uintptr_t(63);
  const size_t room = size_t(workspace.size()) * size_of(workspace.dtype);
  const size_t needed = cpu::least_workspace_bytes(request.problem, threads) + (address - begin);
  PRUNECCA_CHECK(workspace.on_host() && workspace.contiguous() && room >= needed, "the workspace has ", room,
                 " bytes on device ", workspace.device, "; expected ", needed, " contiguous ones on the host");
  if (request.problem.rows() == 0) return {"", -1, -1, {}};
  py::gil_scoped_release release;
  void* scratch = reinterpret_cast<void*>(address);
  const cpu::Refusal refusal = cpu::update(request.problem, threads, any_range, scratch, room - (address - begin));
  std::vector<int> far;
  for (int v = 0; !refusal && !counts.empty() && v < request.problem.n_views; ++v)
    if (cpu::off_centre(request.problem, v)) far.push_back(v);
  return {words(refusal.reason), refusal.view, refusal.channel, far};
}

}  // namespace

void register_covariance(py::module_& m) {
  m.attr("MOST_VIEWS") = kMostViews;
  m.def("covariance_workspace", &workspace, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"),
        py::arg("norms"), py::arg("float64"), py::arg("threads"), py::arg("kept") = py::none());
  m.def("covariance_update", &update, py::arg("views"), py::arg("channel_axes"), py::arg("pairs"), py::arg("shifts"),
        py::arg("sums"), py::arg("grams"), py::arg("norms"), py::arg("float64"), py::arg("threads"),
        py::arg("workspace"), py::arg("counts") = std::vector<int64_t>{}, py::arg("any_range") = true,
        py::arg("kept") = py::none(),
        "Adds the rows of all views to sums, grams (upper triangle where a view meets itself) and norms, or nothing. "
        "Returns (reason, view, channel, far): why nothing was added (empty: it was; or not finite, underflow, off "
        "centre) and where, and which views' means lie far from their shifts (looked at where counts, the rows so far "
        "of each view, are given). kept: numbers of the rows that count, ascending; none: all do.");
}

}  // namespace prunecca
