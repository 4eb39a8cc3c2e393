// What of cuSOLVER the package calls, on host memory: Jacobi's method of 1846 on each matrix, in float64.
// `planted` makes it go wrong as the real one may.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { kNothing, kStatus, kUnsolved, kWrongVectors, kWrongValues };

int planted = kNothing;
int version = 12004;
int64_t calls = 0, largest_batch = 0, dirty = 0, with_vectors = 0;
void* stream = 0;

int cusolverGetVersion(int* out) { return *out = version, 0; }
int cusolverDnCreate(void** handle) { return *handle = malloc(1), 0; }
int cusolverDnCreateParams(void** parameters) { return *parameters = malloc(1), 0; }
int cusolverDnSetStream(void* handle, void* given) { return stream = given, handle ? 0 : 1; }

#ifndef WITHOUT_BATCHED
static void rotate(double* a, double* v, int64_t n, int64_t p, int64_t q) {
  if (a[p * n + q] == 0) return;
  const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
  const double t = copysign(1, theta) / (fabs(theta) + sqrt(1 + theta * theta)), c = 1 / sqrt(1 + t * t), s = c * t;
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[i * n + p], y = a[i * n + q];
    a[i * n + p] = c * x - s * y, a[i * n + q] = s * x + c * y;
  }
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[p * n + i], y = a[q * n + i], vx = v[p * n + i], vy = v[q * n + i];
    a[p * n + i] = c * x - s * y, a[q * n + i] = s * x + c * y;
    v[p * n + i] = c * vx - s * vy, v[q * n + i] = s * vx + c * vy;
  }
}

static int by_value(const void* x, const void* y) {
  const double a = **(double* const*)x, b = **(double* const*)y;
  return (a > b) - (a < b);
}

// The upper triangle, counted by columns, is read; row k of v becomes the k-th eigenvector.
static void solve(double* a, double* w, int64_t n, int wants_vectors) {
  double *full = malloc(n * n * sizeof(double)), *v = calloc(n * n, sizeof(double));
  double** order = malloc(n * sizeof(double*));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < n; ++c) full[r * n + c] = a[r > c ? r * n + c : c * n + r];
  for (int64_t i = 0; i < n; ++i) v[i * n + i] = 1;
  for (int sweep = 0; sweep < 12; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) rotate(full, v, n, p, q);
  for (int64_t i = 0; i < n; ++i) order[i] = &full[i * n + i];
  qsort(order, n, sizeof(double*), by_value);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t from = (order[k] - full) / (n + 1);
    w[k] = *order[k];
    memcpy(a + k * n, wants_vectors ? v + from * n : full, n * sizeof(double));  // without, the matrix is destroyed
  }
  free(full), free(v), free(order);
}

int cusolverDnXsyevBatched_bufferSize(void* handle, void* params, int mode, int triangle, int64_t n, int type_a,
                                      const void* a, int64_t lda, int type_w, const void* w, int type,
                                      size_t* on_device, size_t* on_host, int64_t count) {
  if (!handle || !params || !a || !w || triangle != 1 || type_a != 1 || type_w != 1 || type != 1 || lda != n) return 3;
  *on_device = (size_t)(count * n * (mode ? 64 : 32)), *on_host = 16;
  return 0;
}

int cusolverDnXsyevBatched(void* handle, void* params, int mode, int triangle, int64_t n, int type_a, void* a,
                           int64_t lda, int type_w, void* w, int type, void* device, size_t on_device, void* host,
                           size_t on_host, int* info, int64_t count) {
  size_t needed[2];
  const int refused = cusolverDnXsyevBatched_bufferSize(handle, params, mode, triangle, n, type_a, a, lda, type_w, w,
                                                        type, needed, needed + 1, count);
  if (refused || on_device < needed[0] || on_host < needed[1] || !host || !info) return 3;
  if (planted == kStatus) return 7;
  ++calls, with_vectors += mode;
  if (count > largest_batch) largest_batch = count;
  for (size_t i = 0; i < on_device; ++i) dirty += ((unsigned char*)device)[i] != 0;
  memset(device, 0xff, on_device), memset(host, 0xff, on_host);  // as any work would leave it
  for (int64_t k = 0; k < count; ++k) {
    double *matrix = (double*)a + k * n * n, *values = (double*)w + k * n;
    solve(matrix, values, n, mode);
    info[k] = planted == kUnsolved && k == 1 ? 3 : 0;
    if (info[k]) values[0] = 1e300;
    if (planted == kWrongVectors && k == 1 && mode) memcpy(matrix, matrix + n, n * sizeof(double));
    if (planted == kWrongValues && k == 1) values[n - 1] *= 1.001;
  }
  return 0;
}
#endif
