// Python (pointer, shape, strides in elements, dtype code, device) -> Array; made by prunecca._arrays.native.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "array.hpp"

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
    if (ndim > prunecca::Array::kMaxDims || PyTuple_GET_SIZE(strides) != ndim) return false;
    value.data = reinterpret_cast<void*>(PyLong_AsSize_t(item(t, 0)));
    value.ndim = static_cast<int>(ndim);
    for (Py_ssize_t d = 0; d < ndim; ++d) {
      value.shape[d] = PyLong_AsLongLong(item(shape, d));
      value.strides[d] = PyLong_AsLongLong(item(strides, d));
    }
    value.dtype = static_cast<prunecca::Dtype>(PyLong_AsLong(item(t, 3)));
    value.device = static_cast<int>(PyLong_AsLong(item(t, 4)));
    if (PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
    return true;
  }
};

}  // namespace pybind11::detail
