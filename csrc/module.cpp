#include <pybind11/pybind11.h>

namespace prunecca {
void register_info(pybind11::module_&);
void register_masks(pybind11::module_&);
void register_threshold(pybind11::module_&);
void register_optimizers(pybind11::module_&);
void register_covariance(pybind11::module_&);
void register_linalg(pybind11::module_&);
void register_peaks(pybind11::module_&);
void register_covariance_cuda(pybind11::module_&);
void register_augmentation(pybind11::module_&);
}  // namespace prunecca

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native kernels of prunecca; called by the Python modules of the same names.";
  prunecca::register_info(m);
  prunecca::register_masks(m);
  prunecca::register_threshold(m);
  prunecca::register_optimizers(m);
  prunecca::register_covariance(m);
  prunecca::register_linalg(m);
  prunecca::register_peaks(m);
#ifdef PRUNECCA_HAVE_CUDA
  prunecca::register_covariance_cuda(m);
#endif
  prunecca::register_augmentation(m);
}
