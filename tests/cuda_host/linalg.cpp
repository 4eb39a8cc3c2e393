// The linear algebra kernels, emulated. Scalars: 0 (eigenvalues), sweeps allowed, count, n; or 1 (singular values),
// sweeps allowed, count, rows, columns, stride of a matrix, of a row, of a column.
#include "cuda/linalg.cu"
#include "harness.hpp"

using namespace prunecca::cuda;

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    const bool general = r.integer();
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
