// Activations, and which of their products are wanted, as the covariance kernels of both devices take them.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "bind/array_caster.hpp"
#include "check.hpp"
#include "covariance.hpp"

namespace prunecca {

// Beyond these a state of products would not fit into memory, nor its size into 64 bits.
constexpr int64_t kMostChannels = 1 << 22;
constexpr size_t kMostPairs = 1 << 15;

// (rows..., channels) with up to three row dimensions, outermost first, as the kernels take it.
inline View to_view(const Array& array, int channel_axis) {
  PRUNECCA_CHECK(array.ndim >= 2 && array.ndim <= 4, "an activation has ", array.ndim, " dimensions; expected 2 to 4");
  PRUNECCA_CHECK(channel_axis >= 0 && channel_axis < array.ndim, "channel axis ", channel_axis, " of ", array.ndim,
                 " dimensions");
  PRUNECCA_CHECK(array.dtype <= Dtype::bfloat16, "an activation must be float32, float64, float16 or bfloat16");
  View view;
  view.data = array.data;
  view.dtype = array.dtype;
  view.channels = array.shape[channel_axis];
  PRUNECCA_CHECK(view.channels >= 1 && view.channels <= kMostChannels, "an activation has ", view.channels,
                 " channels; expected 1 to ", kMostChannels);
  view.channel_stride = array.strides[channel_axis];
  int64_t size[3] = {1, 1, 1}, stride[3] = {0, 0, 0};  // innermost first
  int n = 0;
  for (int d = array.ndim - 1; d >= 0; --d) {
    if (d == channel_axis || (array.shape[d] == 1 && array.ndim > 2)) continue;
    // Neighbouring dimensions that continue each other are one.
    if (n && array.strides[d] == size[n - 1] * stride[n - 1])
      size[n - 1] *= array.shape[d];
    else
      size[n] = array.shape[d], stride[n] = array.strides[d], ++n;
  }
  view.inner = size[0], view.inner_stride = stride[0];
  view.middle = size[1], view.middle_stride = stride[1];
  view.outer = size[2], view.outer_stride = stride[2];
  return view;
}

// A problem without its states: whoever made it fills them in. The problem points into the views and pairs.
struct Request {
  std::vector<View> views;
  std::vector<Pair> pairs;
  Problem problem;

  Request(const std::vector<Array>& arrays, const std::vector<int>& channel_axes,
          const std::vector<std::pair<int, int>>& wanted, bool float64) {
    PRUNECCA_CHECK(arrays.size() == channel_axes.size(), arrays.size(), " views but ", channel_axes.size(),
                   " channel axes");
    PRUNECCA_CHECK(!arrays.empty() && arrays.size() <= kMostPairs && wanted.size() <= kMostPairs, "given ",
                   arrays.size(), " views and ", wanted.size(), " pairs of them; expected 1 to ", kMostPairs,
                   " views and at most as many pairs");
    const int n = int(arrays.size());
    for (int v = 0; v < n; ++v) {
      PRUNECCA_CHECK(arrays[v].device == arrays[0].device, "view ", v, " is on device ", arrays[v].device,
                     " and view 0 on ", arrays[0].device, "; expected all on one");
      views.push_back(to_view(arrays[v], channel_axes[v]));
      PRUNECCA_CHECK(views[v].rows() == views[0].rows(), "view ", v, " has ", views[v].rows(), " rows and view 0 has ",
                     views[0].rows(), "; all must share their rows");
    }
    for (auto [i, j] : wanted) {
      PRUNECCA_CHECK(i >= 0 && j >= 0 && i < n && j < n, "pair (", i, ", ", j, ") names a view that is not there");
      pairs.push_back({i, j, nullptr, nullptr});
    }
    problem = {views.data(), n, pairs.data(), int(pairs.size()), float64};
  }
  Request(const Request&) = delete;

  // What the workspace depends on beside the views: which states there will be.
  void ask_for_norms() {
    for (Pair& pair : pairs) pair.norms = &mark();
  }
  void ask_for_sum(int view) { views[view].sum = &mark(); }

  // grams and norms: one each for every pair; or no norms. sums: one for every view, or none for those that need none.
  void fill(const std::vector<Array>& shifts, const std::vector<std::optional<Array>>& sums,
            const std::vector<Array>& grams, const std::vector<Array>& norms, int device) {
    PRUNECCA_CHECK(shifts.size() == views.size() && sums.size() == views.size(),
                   "one shift and one sum are needed per view");
    PRUNECCA_CHECK(grams.size() == pairs.size() && (norms.empty() || norms.size() == pairs.size()),
                   "one gram is needed per pair");
    for (size_t v = 0; v < views.size(); ++v) {
      views[v].shift = float64_memory(shifts[v], views[v].channels, device, "a shift");
      views[v].sum = sums[v] ? float64_memory(*sums[v], views[v].channels, device, "a sum") : nullptr;
    }
    for (size_t k = 0; k < pairs.size(); ++k) {
      const int64_t ci = views[pairs[k].i].channels, cj = views[pairs[k].j].channels;
      pairs[k].gram = float64_memory(grams[k], ci * cj, device, "a gram");
      pairs[k].norms = norms.empty() ? nullptr : float64_memory(norms[k], 1 + ci + cj, device, "norms");
    }
  }

 private:
  static double& mark() {  // only whether a state is null is looked at
    static double memory;
    return memory;
  }
  static double* float64_memory(const Array& array, int64_t size, int device, const char* what) {
    PRUNECCA_CHECK(
        array.device == device && array.dtype == Dtype::float64 && array.contiguous() && array.size() == size, what,
        " must be ", size, " contiguous float64 values on the device of the views, but holds ", array.size());
    return array.as<double>();
  }
};

}  // namespace prunecca
