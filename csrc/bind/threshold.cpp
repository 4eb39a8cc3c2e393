// The selection of what to prune on a CUDA device: all pools in one call of two halves, between which Python may read
// how many survive. On the host, the selection is one call: prune_lowest in bind/masks.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/checks.hpp"
#ifdef PRUNECCA_HAVE_CUDA
#include "cuda/device_guard.hpp"
#include "cuda/threshold.cuh"
#endif

namespace py = pybind11;

namespace prunecca {

namespace {

int check_selection(const Arrays& scores, const Arrays& alive, const Arrays& masks, const std::vector<int>& pools,
                    int count) {
  check_same_length(alive.size(), scores.size(), "previous masks");
  check_same_length(masks.size(), scores.size(), "masks");
  check_same_length(pools.size(), scores.size(), "pool numbers");
  for (size_t i = 0; i < scores.size(); ++i) {
    PRUNECCA_CHECK(scores[i].dtype == scores.front().dtype, "given scores of different dtypes; expected one dtype");
    PRUNECCA_CHECK(scores[i].dtype <= Dtype::bfloat16, "given scores that are not floating; expected floating scores");
    PRUNECCA_CHECK(scores[i].contiguous(), "given scores that are not contiguous; ties are broken by flat index");
    PRUNECCA_CHECK(pools[i] >= (i ? pools[i - 1] : 0) && pools[i] < count, "given pool ", pools[i], " for tensor ", i,
                   "; expected numbers from 0 to ", count - 1, " that do not decrease");
    check_mask(masks[i], scores[i]);
    check_mask(alive[i], scores[i]);
  }
  const int device = common_device(scores);
  PRUNECCA_CHECK(device >= 0, "given scores on the host; expected scores on a CUDA device");
  return device;
}

#ifdef PRUNECCA_HAVE_CUDA
cuda::Selection selection_of(const Arrays& scores, const Arrays& alive, const Arrays& masks,
                             const std::vector<int>& pools, int count, bool by_value, const Array& workspace) {
  cuda::Selection selection;
  for (size_t i = 0; i < scores.size(); ++i)
    selection.tensors.push_back(
        {scores[i].data, alive[i].as<uint8_t>(), masks[i].as<uint8_t>(), scores[i].size(), pools[i]});
  selection.dtype = scores.front().dtype;
  selection.order = by_value ? Order::value : Order::magnitude;
  selection.pools = count;
  selection.workspace = workspace.data;
  PRUNECCA_CHECK(workspace.dtype == Dtype::int64 && workspace.contiguous() &&
                     workspace.device == scores.front().device &&
                     reinterpret_cast<uintptr_t>(workspace.data) % 16 == 0 &&
                     workspace.size() * 8 >= cuda::workspace_bytes(selection),
                 "given a workspace of ", workspace.size(),
                 " int64 numbers; expected them on the scores' device, aligned to 16 bytes, and at least ",
                 (cuda::workspace_bytes(selection) + 7) / 8);
  return selection;
}
#endif

void check_numbers(const Array& numbers, int64_t expected, int device, const char* what) {
  PRUNECCA_CHECK(
      numbers.dtype == Dtype::int64 && numbers.contiguous() && numbers.size() == expected && numbers.device == device,
      "given ", numbers.size(), " numbers for ", what, "; expected ", expected,
      " contiguous int64 on the scores' device");
}

int64_t threshold_workspace(const std::vector<int64_t>& sizes, int pools) {
  constexpr int kMostPools = 1 << 20;
  PRUNECCA_CHECK(pools >= 1 && pools <= kMostPools, "given ", pools, " pools; expected 1 to ", kMostPools);
  for (int64_t size : sizes)
    PRUNECCA_CHECK(size >= 0 && size < int64_t(1) << 48, "given a tensor of ", size, " scores; expected 0 to 2^48");
#ifdef PRUNECCA_HAVE_CUDA
  cuda::Selection selection;
  for (int64_t size : sizes) selection.tensors.push_back({nullptr, nullptr, nullptr, size, 0});
  selection.pools = pools;
  return (cuda::workspace_bytes(selection) + 7) / 8;
#else
  return 0;
#endif
}

void survey_scores(const Arrays& scores, const Arrays& alive, const Arrays& masks, const std::vector<int>& pools,
                   bool by_value, const Array& workspace, const Array& survey, uintptr_t stream) {
  const int count = int(survey.size() / 2), device = check_selection(scores, alive, masks, pools, count);
  check_numbers(survey, 2 * count, device, "the survey");
#ifdef PRUNECCA_HAVE_CUDA
  const cuda::Selection selection = selection_of(scores, alive, masks, pools, count, by_value, workspace);
  const cuda::DeviceGuard guard(device);
  cuda::check(cuda::survey_scores(selection, survey.as<int64_t>(), cuda::to_stream(stream)), "survey_scores");
#else
  (void)by_value, (void)workspace, (void)stream;
  only_host(device);
#endif
}

void cut_scores(const Arrays& scores, const Arrays& alive, const Arrays& masks, const std::vector<int>& pools,
                bool by_value, const Array& workspace, const Array& wanted, uintptr_t stream) {
  const int count = int(wanted.size()), device = check_selection(scores, alive, masks, pools, count);
  check_numbers(wanted, count, device, "what to prune");
#ifdef PRUNECCA_HAVE_CUDA
  const cuda::Selection selection = selection_of(scores, alive, masks, pools, count, by_value, workspace);
  const cuda::DeviceGuard guard(device);
  cuda::check(cuda::cut_scores(selection, wanted.as<int64_t>(), cuda::to_stream(stream)), "cut_scores");
#else
  (void)by_value, (void)workspace, (void)stream;
  only_host(device);
#endif
}

}  // namespace

void register_threshold(py::module_& m) {
  m.def("threshold_workspace", &threshold_workspace, py::arg("sizes"), py::arg("pools"));
  m.def("survey_scores", &survey_scores, py::arg("scores"), py::arg("alive"), py::arg("masks"), py::arg("pools"),
        py::arg("by_value"), py::arg("workspace"), py::arg("survey"), py::arg("stream"));
  m.def("cut_scores", &cut_scores, py::arg("scores"), py::arg("alive"), py::arg("masks"), py::arg("pools"),
        py::arg("by_value"), py::arg("workspace"), py::arg("wanted"), py::arg("stream"));
}

}  // namespace prunecca
