#include <pybind11/pybind11.h>

#include "build_info.h"
#include "cpu/level.hpp"

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
    info["cpu_level"] = cpu::name_of(cpu::level());
    info["cpu_level_best"] = cpu::name_of(cpu::best_level());
    return info;
  });
  m.def("set_cpu_level", [](const std::string& name) { cpu::set_level(name.c_str()); }, py::arg("name"));
}

}  // namespace prunecca
