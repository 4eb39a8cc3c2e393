// Masks and the selection of what to prune. Lists of tensors cross in one call: a call costs more than a
// small tensor.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/checks.hpp"
#include "cpu/masks.hpp"
#include "cpu/threshold.hpp"
#ifdef PRUNECCA_HAVE_CUDA
#include "cuda/device_guard.hpp"
#include "cuda/masks.cuh"
#endif

namespace py = pybind11;

namespace prunecca {

namespace {

#ifdef PRUNECCA_HAVE_CUDA
// One launch for each size of element that occurs.
void masked_copy_on(int device, const std::vector<Masked>& tensors, uintptr_t stream) {
  const cuda::DeviceGuard guard(device);
  for (int itemsize : {2, 4, 8}) {
    std::vector<Masked> alike;
    for (const Masked& t : tensors)
      if (t.itemsize == itemsize) alike.push_back(t);
    cuda::check(cuda::masked_copy(alike, itemsize, cuda::to_stream(stream)), "masked_copy");
  }
}
#endif

void masked_copy(const Arrays& out, const Arrays& source, const Arrays& masks, int threads, uintptr_t stream) {
  check_same_length(source.size(), out.size(), "sources");
  check_same_length(masks.size(), out.size(), "masks");
  std::vector<Masked> tensors;
  for (size_t i = 0; i < out.size(); ++i) {
    PRUNECCA_CHECK(out[i].dtype == source[i].dtype && size_of(out[i].dtype) > 1,
                   "given an output of another dtype than its source; expected one floating dtype");
    PRUNECCA_CHECK(dense(out[i]) && same_memory_order(out[i], source[i]),
                   "given tensors whose memory has gaps or another order; expected dense tensors of one memory order");
    check_mask(masks[i], out[i]);
    tensors.push_back(
        {out[i].data, source[i].data, masks[i].as<uint8_t>(), out[i].size(), static_cast<int>(size_of(out[i].dtype))});
  }
  const int device = common_device(out);
#ifdef PRUNECCA_HAVE_CUDA
  if (device >= 0) return masked_copy_on(device, tensors, stream);
#endif
  (void)stream;
  only_host(device);
  check_threads(threads);
  py::gil_scoped_release unlocked;
  cpu::masked_copy(tensors, threads);
}

std::vector<int64_t> count_kept(const Arrays& masks, int threads, uintptr_t) {
  std::vector<Counted> counted;
  for (const Array& mask : masks) {
    PRUNECCA_CHECK(mask.dtype == Dtype::boolean && dense(mask), "given a mask that is not a dense boolean tensor");
    counted.push_back({mask.as<uint8_t>(), mask.size()});
  }
  only_host(common_device(masks));
  check_threads(threads);
  py::gil_scoped_release unlocked;
  return cpu::count_kept(counted, threads);
}

// On a CUDA device: counts, int64 there, instead of a list that the host would have to wait for.
void count_kept_into(const Arrays& masks, const Array& counts, uintptr_t stream) {
  for (const Array& mask : masks)
    PRUNECCA_CHECK(mask.dtype == Dtype::boolean && dense(mask), "given a mask that is not a dense boolean tensor");
  const int device = common_device(masks);
  PRUNECCA_CHECK(counts.dtype == Dtype::int64 && counts.contiguous() && counts.size() == int64_t(masks.size()) &&
                     counts.device == device && device >= 0,
                 "given ", counts.size(), " counts for ", masks.size(),
                 " masks; expected one int64 each, all on one CUDA device");
#ifdef PRUNECCA_HAVE_CUDA
  std::vector<Counted> counted;
  for (const Array& mask : masks) counted.push_back({mask.as<uint8_t>(), mask.size()});
  const cuda::DeviceGuard guard(device);
  cuda::check(cuda::count_kept(counted, counts.as<int64_t>(), cuda::to_stream(stream)), "count_kept");
#else
  (void)stream;
  only_host(device);
#endif
}

int64_t prune_lowest(const Arrays& scores, const Arrays& alive, const Arrays& masks, bool by_value, int64_t count,
                     int threads, uintptr_t) {
  check_same_length(masks.size(), scores.size(), "masks");
  if (!alive.empty()) check_same_length(alive.size(), scores.size(), "previous masks");
  PRUNECCA_CHECK(count >= 0, "asked to prune ", count, " entries; expected zero or more");
  std::vector<Scores> pool;
  for (size_t i = 0; i < scores.size(); ++i) {
    PRUNECCA_CHECK(scores[i].dtype == scores.front().dtype, "given scores of different dtypes; expected one dtype");
    PRUNECCA_CHECK(scores[i].dtype <= Dtype::bfloat16, "given scores that are not floating; expected floating scores");
    PRUNECCA_CHECK(scores[i].contiguous(), "given scores that are not contiguous; ties are broken by flat index");
    check_mask(masks[i], scores[i]);
    if (!alive.empty()) check_mask(alive[i], scores[i]);
    pool.push_back(
        {scores[i].data, alive.empty() ? nullptr : alive[i].as<uint8_t>(), masks[i].as<uint8_t>(), scores[i].size()});
  }
  only_host(common_device(scores));
  check_threads(threads);
  if (pool.empty()) {
    PRUNECCA_CHECK(count == 0, "asked to prune ", count, " entries of an empty pool; expected 0");
    return -1;
  }
  py::gil_scoped_release unlocked;
  return cpu::prune_lowest(pool, scores.front().dtype, by_value ? Order::value : Order::magnitude, count, threads);
}

}  // namespace

void register_masks(py::module_& m) {
  m.def("masked_copy", &masked_copy, py::arg("out"), py::arg("source"), py::arg("masks"), py::arg("threads"),
        py::arg("stream"));
  m.def("count_kept", &count_kept, py::arg("masks"), py::arg("threads"), py::arg("stream"));
  m.def("count_kept_into", &count_kept_into, py::arg("masks"), py::arg("counts"), py::arg("stream"));
  m.def("prune_lowest", &prune_lowest, py::arg("scores"), py::arg("alive"), py::arg("masks"), py::arg("by_value"),
        py::arg("count"), py::arg("threads"), py::arg("stream"));
}

}  // namespace prunecca
