#include "cpu/augmentation.hpp"
#include "bind/checks.hpp"

namespace py = pybind11;

namespace prunecca {
namespace {

void check(const Array& a, const char* name, Dtype dtype, int ndim, bool contiguous = true) {
  PRUNECCA_CHECK(a.on_host(), name, " is on CUDA device ", a.device, "; expected host memory");
  PRUNECCA_CHECK(a.dtype == dtype, name, " has dtype code ", static_cast<int>(a.dtype), "; expected ",
                 static_cast<int>(dtype));
  PRUNECCA_CHECK(a.ndim == ndim, name, " has ", a.ndim, " dimensions; expected ", ndim);
  PRUNECCA_CHECK(!contiguous || a.contiguous(), name, " is not contiguous");
}

int64_t warp_workspace(int64_t height, int64_t width) {
  constexpr int64_t kMost = 1 << 20;
  PRUNECCA_CHECK(height >= 0 && width >= 0 && height < kMost && width < kMost, "given images of ", height, " x ", width,
                 " pixels; expected 0 to ", kMost - 1, " of each");
  return cpu::warp_workspace(height, width);
}

// images (M, C, H, W) uint8, index (N) int64, maps (N, 2, 3), scale (C), offset (C), output (N, C, H, W) with any
// strides, workspace (threads * warp_workspace(H, W)); all float32 unless said.
void warp(const Array& images, const Array& index, const Array& maps, const Array& scale, const Array& offset,
          const Array& output, const Array& workspace, int threads) {
  check(images, "images", Dtype::uint8, 4);
  check(index, "index", Dtype::int64, 1);
  check(maps, "maps", Dtype::float32, 3);
  check(scale, "scale", Dtype::float32, 1);
  check(offset, "offset", Dtype::float32, 1);
  check(output, "output", Dtype::float32, 4, false);
  check(workspace, "workspace", Dtype::float32, 1);
  const int64_t count = index.shape[0], channels = images.shape[1], height = images.shape[2], width = images.shape[3];
  PRUNECCA_CHECK(maps.shape[0] == count && maps.shape[1] == 2 && maps.shape[2] == 3, "maps has shape (", maps.shape[0],
                 ", ", maps.shape[1], ", ", maps.shape[2], "); expected (", count, ", 2, 3)");
  PRUNECCA_CHECK(scale.shape[0] == channels && offset.shape[0] == channels, "scale and offset have ", scale.shape[0],
                 " and ", offset.shape[0], " entries; expected one for each of ", channels, " channels");
  PRUNECCA_CHECK(
      output.shape[0] == count && output.shape[1] == channels && output.shape[2] == height && output.shape[3] == width,
      "output does not have the shape (", count, ", ", channels, ", ", height, ", ", width, ") of the batch");
  check_threads(threads);
  const int64_t needed = threads * warp_workspace(height, width);
  PRUNECCA_CHECK(workspace.shape[0] >= needed, "workspace has ", workspace.shape[0], " entries; expected at least ",
                 needed);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t image = index.as<int64_t>()[i];
    PRUNECCA_CHECK(image >= 0 && image < images.shape[0], "index ", i, " is ", image, "; there are ", images.shape[0],
                   " images");
  }
  py::gil_scoped_release release;
  cpu::warp({images.as<uint8_t>(), index.as<int64_t>(), maps.as<float>(), scale.as<float>(), offset.as<float>(),
             output.as<float>(), output.strides[0], output.strides[1], output.strides[2], output.strides[3], count,
             channels, height, width, workspace.as<float>(), threads});
}

}  // namespace

void register_augmentation(py::module_& m) {
  m.def("warp", &warp);
  m.def("warp_workspace", &warp_workspace);
}

}  // namespace prunecca
