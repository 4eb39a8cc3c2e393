// An activation as the covariance kernels of both devices take it.
#pragma once
#include "array.hpp"
#include "check.hpp"

namespace prunecca {

// (rows..., channels) with up to three row dimensions, outermost first, as the kernels take it.
template <class View> View to_view(const Array& array, int channel_axis) {
  PRUNECCA_CHECK(array.ndim >= 2 && array.ndim <= 4, "an activation has ", array.ndim, " dimensions; expected 2 to 4");
  PRUNECCA_CHECK(channel_axis >= 0 && channel_axis < array.ndim, "channel axis ", channel_axis, " of ", array.ndim, " dimensions");
  PRUNECCA_CHECK(array.dtype <= Dtype::bfloat16, "an activation must be float32, float64, float16 or bfloat16");
  View view;
  view.data = array.data;
  view.dtype = array.dtype;
  view.channels = array.shape[channel_axis];
  view.channel_stride = array.strides[channel_axis];
  int64_t size[3] = {1, 1, 1}, stride[3] = {0, 0, 0};  // innermost first
  int n = 0;
  for (int d = array.ndim - 1; d >= 0; --d) {
    if (d == channel_axis || (array.shape[d] == 1 && array.ndim > 2)) continue;
    // Neighbouring dimensions that continue each other are one.
    if (n && array.strides[d] == size[n - 1] * stride[n - 1]) size[n - 1] *= array.shape[d];
    else size[n] = array.shape[d], stride[n] = array.strides[d], ++n;
  }
  view.inner = size[0], view.inner_stride = stride[0];
  view.middle = size[1], view.middle_stride = stride[1];
  view.outer = size[2], view.outer_stride = stride[2];
  return view;
}

}  // namespace prunecca
