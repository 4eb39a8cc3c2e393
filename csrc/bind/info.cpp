#include <pybind11/pybind11.h>

#include "build_info.h"
#include "cpu/simd_level.hpp"
#include "cpu/tile_instructions.hpp"
#ifdef PRUNECCA_HAVE_CUDA
#include "cuda/device_guard.hpp"
#endif

namespace py = pybind11;

namespace prunecca {

void register_info(py::module_& m) {
  m.def("build_info", [] {
    py::dict info;
    info["version"] = PRUNECCA_VERSION;
    info["compiler"] = PRUNECCA_COMPILER;
    info["cuda"] = PRUNECCA_CUDA_VERSION;  // empty: built without
    info["cuda_architectures"] = PRUNECCA_CUDA_ARCHITECTURES;
    info["sanitizers"] = PRUNECCA_SANITIZERS;
    info["cpu_level"] = cpu::level_name();
    info["cpu_level_best"] = cpu::best_level_name();
    return info;
  });
  // The device whose memory an address is in; -1: the host's, or no device can be asked.
  m.def(
      "device_of",
      []([[maybe_unused]] uintptr_t address) {
#ifdef PRUNECCA_HAVE_CUDA
        cudaPointerAttributes found{};
        if (cudaPointerGetAttributes(&found, reinterpret_cast<const void*>(address)) != cudaSuccess) {
          cudaGetLastError();  // no driver, or no device: so that the next call does not report this error again
        } else if (found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged)
          return found.device;
#endif
        return -1;
      },
      py::arg("address"));
  m.def("set_cpu_level", [](const std::string& name) { cpu::set_level(name.c_str()); }, py::arg("name"));
  m.def(
      "emulated_tile_counts",
      [] {
        const cpu::TileCounts counts = cpu::emulated_tile_counts();
        return py::make_tuple(counts.products, counts.loads, counts.stores);
      },
      "What the level 'amx_emulated' has done so far: tile products, loads and stores.");
}

}  // namespace prunecca
