// Python (pointer, shape, strides in elements, dtype code, device) -> Array; made by prunecca._arrays.native.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "array.hpp"
#include "check.hpp"

namespace prunecca {

// Refuses what can be no array in memory, whoever made the tuple: every array that comes in passes here.
inline void check_array(const Array& array) {
  constexpr int64_t kLargest = int64_t(1) << 62;
  PRUNECCA_CHECK(array.dtype >= Dtype::float32 && array.dtype <= Dtype::uint8, "an array has dtype code ",
                 static_cast<int>(array.dtype), "; expected one from 0 to ", static_cast<int>(Dtype::uint8));
  PRUNECCA_CHECK(array.device >= -1, "an array is on device ", array.device, "; expected -1 for the host, or 0 and up");
  const int64_t itemsize = size_of(array.dtype);
  // A size of 0 does not excuse the others: products of some of them are taken too.
  int64_t bytes = itemsize, reach = itemsize;
  bool fits = true;
  for (int d = 0; d < array.ndim; ++d) {
    const int64_t size = array.shape[d], stride = array.strides[d];
    PRUNECCA_CHECK(size >= 0, "dimension ", d, " of an array has size ", size, "; expected 0 or more");
    int64_t span = 0;
    fits = fits && !__builtin_mul_overflow(bytes, size > 1 ? size : 1, &bytes) && bytes < kLargest;
    fits = fits && stride > -kLargest && !__builtin_mul_overflow(stride < 0 ? -stride : stride, itemsize, &span);
    fits = fits && (size < 2 || !__builtin_mul_overflow(span, size - 1, &span)) &&
           !__builtin_add_overflow(reach, size < 2 ? 0 : span, &reach) && reach < kLargest;
    PRUNECCA_CHECK(fits, "dimension ", d, " of an array has size ", size, " and stride ", stride,
                   "; expected an array that fits into memory");
  }
  const auto address = reinterpret_cast<uintptr_t>(array.data);
  PRUNECCA_CHECK(address || array.size() == 0, "an array of ", array.size(),
                 " entries has a null pointer; expected the address of its memory");
  PRUNECCA_CHECK(address % static_cast<uintptr_t>(itemsize) == 0, "the address of an array is no multiple of its ",
                 itemsize, " bytes per entry; expected aligned memory, copy it");
}

}  // namespace prunecca

namespace pybind11::detail {

template <> struct type_caster<prunecca::Array> {
  PYBIND11_TYPE_CASTER(prunecca::Array, const_name("tuple[int, tuple[int, ...], tuple[int, ...], int, int]"));

  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != 5) return false;
    auto item = [](PyObject* t, Py_ssize_t i) { return PyTuple_GET_ITEM(t, i); };
    PyObject* t = source.ptr();
    PyObject *shape = item(t, 1), *strides = item(t, 2);
    if (!PyTuple_Check(shape) || !PyTuple_Check(strides)) return false;
    const Py_ssize_t ndim = PyTuple_GET_SIZE(shape);
    PRUNECCA_CHECK(ndim <= prunecca::Array::kMaxDims, "an array has ", ndim, " dimensions; expected at most ",
                   prunecca::Array::kMaxDims);
    PRUNECCA_CHECK(PyTuple_GET_SIZE(strides) == ndim, "an array has ", ndim, " dimensions and ",
                   PyTuple_GET_SIZE(strides), " strides; expected one stride for each");
    value.data = reinterpret_cast<void*>(PyLong_AsSize_t(item(t, 0)));
    value.ndim = static_cast<int>(ndim);
    for (Py_ssize_t d = 0; d < ndim; ++d) {
      value.shape[d] = PyLong_AsLongLong(item(shape, d));
      value.strides[d] = PyLong_AsLongLong(item(strides, d));
    }
    const int64_t dtype = PyLong_AsLongLong(item(t, 3)), device = PyLong_AsLongLong(item(t, 4));
    value.dtype = static_cast<prunecca::Dtype>(dtype < 0 || dtype > 127 ? 127 : dtype);
    value.device = static_cast<int>(device < -1 || device > 1 << 20 ? -2 : device);
    if (PyErr_Occurred()) {
      const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError);  // or negative, where an address is meant
      PyErr_Clear();
      PRUNECCA_CHECK(!too_large, "an array has a number that does not fit into 64 bits; expected one of real memory");
      return false;
    }
    prunecca::check_array(value);
    return true;
  }
};

}  // namespace pybind11::detail
