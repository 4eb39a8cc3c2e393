// The linear algebra kernels, emulated. Scalars: 0 (eigenvalues), sweeps allowed, count, n; or 1 (singular values),
// sweeps allowed, count, rows, columns, stride of a matrix, of a row, of a column; or 2.
#include "cuda/linalg.cu"
#include "harness.hpp"

using namespace prunecca;
using namespace prunecca::cuda;

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    const int64_t what = r.integer();
    if (what == 2) {  // bytes of shared memory of each size of tile
      r.write({sizeof(Tile<16>), sizeof(Tile<32>), sizeof(Tile<64>), sizeof(Tile<128>)});
      return cudaSuccess;
    }
    const bool general = what == 1;
    const int sweeps = int(r.integer());
    const double* data = r.array<double>();
    double* values = r.array<double>();
    if (general) {
      General m{data, r.integer(), 0, 0, 0, 0, 0, values, nullptr};
      m.rows = int(r.integer()), m.columns = int(r.integer());
      m.matrix_stride = r.integer(), m.row_stride = r.integer(), m.column_stride = r.integer();
      m.sweeps = r.array<int>();
      return singular_values(m, sweeps, nullptr);
    }
    Symmetric m{data, r.integer(), 0, values, nullptr, nullptr};
    m.n = int(r.integer());
    m.vectors = r.array<double>();
    m.sweeps = r.array<int>();
    return eigh(m, sweeps, nullptr);
  });
}
