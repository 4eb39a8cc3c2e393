// Eigenvalues and singular values of batches of small float64 matrices on a CUDA device; the host has torch.linalg.
#include <pybind11/pybind11.h>

#include <algorithm>

#include "bind/checks.hpp"
#include "linalg.hpp"
#ifdef PRUNECCA_HAVE_CUDA
#include "cuda/device_guard.hpp"
#include "cuda/linalg.cuh"
#endif

namespace py = pybind11;

namespace prunecca {

namespace {

int check_matrices(const Array& matrices, const Array& values, int most_sweeps) {
  PRUNECCA_CHECK(most_sweeps >= 1, "given at most ", most_sweeps, " sweeps; expected at least 1");
  PRUNECCA_CHECK(matrices.dtype == Dtype::float64 && matrices.ndim == 3, "given matrices with ", matrices.ndim,
                 " dimensions; expected a batch (count, rows, columns) in float64");
  PRUNECCA_CHECK(
      matrices.device >= 0 && values.device == matrices.device,
      "given matrices or values on the host; expected both on one CUDA device, use torch.linalg on the host");
  PRUNECCA_CHECK(
      values.dtype == Dtype::float64 && values.contiguous() && values.ndim == 2 &&
          values.shape[0] == matrices.shape[0] && values.shape[1] == std::min(matrices.shape[1], matrices.shape[2]),
      "given values of another shape than the batch; expected contiguous float64 (count, min(rows, columns))");
  PRUNECCA_CHECK(std::max(matrices.shape[1], matrices.shape[2]) <= kLargestSide, "given matrices of ",
                 matrices.shape[1], " by ", matrices.shape[2], "; expected at most ", kLargestSide,
                 " rows and columns");
#ifndef PRUNECCA_HAVE_CUDA
  only_host(matrices.device);
#endif
  return matrices.device;
}

void eigh(const Array& matrices, const Array& values, const Array& vectors, int most_sweeps, uintptr_t stream) {
  const int device = check_matrices(matrices, values, most_sweeps);
  PRUNECCA_CHECK(matrices.shape[1] == matrices.shape[2] && matrices.contiguous(), "given matrices of ",
                 matrices.shape[1], " by ", matrices.shape[2], "; expected contiguous square matrices");
  PRUNECCA_CHECK(vectors.dtype == Dtype::float64 && vectors.contiguous() && same_memory_order(vectors, matrices) &&
                     vectors.device == device,
                 "given vectors of another shape than the matrices; expected contiguous float64 of the same shape");
#ifdef PRUNECCA_HAVE_CUDA
  const Symmetric batch{matrices.as<double>(), matrices.shape[0],    int(matrices.shape[1]),
                        values.as<double>(),   vectors.as<double>(), nullptr};
  const cuda::DeviceGuard guard(device);
  cuda::check(cuda::eigh(batch, most_sweeps, cuda::to_stream(stream)), "eigh");
#else
  (void)stream;
#endif
}

void singular_values(const Array& matrices, const Array& values, int most_sweeps, uintptr_t stream) {
  const int device = check_matrices(matrices, values, most_sweeps);
#ifdef PRUNECCA_HAVE_CUDA
  const General batch{matrices.as<double>(),  matrices.shape[0],      matrices.strides[0],
                      int(matrices.shape[1]), int(matrices.shape[2]), matrices.strides[1],
                      matrices.strides[2],    values.as<double>(),    nullptr};
  const cuda::DeviceGuard guard(device);
  cuda::check(cuda::singular_values(batch, most_sweeps, cuda::to_stream(stream)), "singular_values");
#else
  (void)device, (void)stream;
#endif
}

}  // namespace

void register_linalg(py::module_& m) {
  m.attr("LARGEST_SIDE") = kLargestSide;
  m.attr("MOST_SWEEPS") = kMostSweeps;
  m.def("eigh", &eigh, py::arg("matrices"), py::arg("values"), py::arg("vectors"), py::arg("most_sweeps"),
        py::arg("stream"));
  m.def("singular_values", &singular_values, py::arg("matrices"), py::arg("values"), py::arg("most_sweeps"),
        py::arg("stream"));
}

}  // namespace prunecca
