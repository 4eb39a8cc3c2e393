#include "cpu/peaks.hpp"
#include "bind/checks.hpp"

namespace py = pybind11;

namespace prunecca {

namespace {

// A contiguous host array as 64-bit words.
int64_t words_of(const Array& a) {
  PRUNECCA_CHECK(a.on_host() && a.contiguous() && a.size() * size_of(a.dtype) % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(a.data) % 8 == 0,
                 "given an array that is not whole 64-bit words; expected a contiguous array on the host");
  return a.size() * size_of(a.dtype) / 8;
}

}  // namespace

void register_peaks(py::module_& m) {
  m.def(
      "probe_fma",
      [](bool float64, int64_t iterations, int threads) {
        check_threads(threads);
        PRUNECCA_CHECK(iterations >= 1, "given ", iterations, " iterations; expected at least 1");
        py::gil_scoped_release release;
        return cpu::peak_fma(float64, iterations, threads);
      },
      py::arg("float64"), py::arg("iterations"), py::arg("threads"));
  m.def(
      "probe_read",
      [](const Array& data, int threads) {
        check_threads(threads);
        const int64_t words = words_of(data);
        py::gil_scoped_release release;
        return cpu::peak_read(data.as<uint64_t>(), words, threads);
      },
      py::arg("data"), py::arg("threads"));
  m.def(
      "probe_copy",
      [](const Array& to, const Array& from, int threads) {
        check_threads(threads);
        const int64_t words = words_of(from);
        PRUNECCA_CHECK(words_of(to) == words, "given arrays of ", words_of(to), " and ", words,
                       " words; expected the same size");
        py::gil_scoped_release release;
        cpu::peak_copy(to.as<uint64_t>(), from.as<uint64_t>(), words, threads);
      },
      py::arg("to"), py::arg("from_"), py::arg("threads"));
}

}  // namespace prunecca
