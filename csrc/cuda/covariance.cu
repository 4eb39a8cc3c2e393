// The covariance kernels: tiles of products per piece of the rows, then their sums in a fixed order.
#include "cuda/covariance.cuh"

#include "cuda/covariance_product.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kTileExtra = 64;  // a partial tile ends with the sums of its first panel's channels
__host__ __device__ constexpr int64_t tile_size(int panel) { return int64_t(panel) * panel + kTileExtra; }

// Block (tile, split): the products of two panels over one piece of the rows, to partial[split][warp][tile].
// Tiles run fastest, so that blocks which read the same rows run together and find them in L2.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) products(const __grid_constant__ Plan plan, double* partial) {
  auto* stages = dynamic_shared<typename S::T>();
  auto& info = static_shared<BlockInfo<S>>();
  const int pa = plan.tiles[blockIdx.x] >> 8, pb = plan.tiles[blockIdx.x] & 255;
  const bool one_panel = pa == pb;
  describe_panel<S>(plan, pa, info.panel[0]);
  if (!one_panel) describe_panel<S>(plan, pb, info.panel[1]);
  zero_stages<S>(stages);
  __syncthreads();

  const unsigned begin = blockIdx.y * plan.rows_per_split, end = min(plan.rows, begin + plan.rows_per_split);
  const int n_stages = int((end - begin + S::kRows - 1) / S::kRows);
  const Strides strides_a(plan, pa * S::kPanel), strides_b(plan, pb * S::kPanel);
  auto start = [&](int stage) {
    if (stage < n_stages) {
      auto* to = stages + stage % S::kStages * S::kPanels * S::kPanelSize;
      const unsigned row = begin + stage * S::kRows;
      stage_panel<S>(plan, info.panel[0], strides_a, row, end, to);
      if (S::kPanels == 2 && !one_panel) stage_panel<S>(plan, info.panel[1], strides_b, row, end, to + S::kPanelSize);
    }
    commit_copies();  // an empty group too, so that the count of groups is the count of stages
  };
  for (int s = 0; s < S::kStages - 1; ++s) start(s);

  // A panel of 32 has one part, whose rows the warps share; a panel of 64 has four. A tile on the diagonal needs
  // only three of these, and which warp (so which quarter of the SM) is idle changes from block to block.
  const int warp = int(threadIdx.x) / 32;
  const int part = S::kPanel == 32 ? 0 : (warp + int(blockIdx.y)) % 4,
            first_row = S::kPanel == 32 ? warp * S::kWarpRows : 0;
  const int ca = part / 2 * 32, cb = part % 2 * 32;
  const bool idle = one_panel && ca > cb, diagonal = one_panel && ca == cb;
  WarpTile<S, typename S::P> tile;
  tile.begin(info.panel[0].shift + ca, info.panel[one_panel ? 0 : 1].shift + cb, info.sums[warp]);
  for (int s = 0; s < n_stages; ++s) {
    wait_copies<S::kStages - 2>();
    __syncthreads();  // everyone's copies of stage s have landed, and stage s - 1 has been read by all
    start(s + S::kStages - 1);
    if (idle) continue;
    const auto* from = stages + s % S::kStages * S::kPanels * S::kPanelSize + first_row * S::kRowStep;
    const auto *a = from + ca * S::kChannelStep, *b = from + (one_panel ? 0 : S::kPanelSize) + cb * S::kChannelStep;
    const int valid = int(end - begin) - s * S::kRows - first_row;
    if (valid >= S::kWarpRows)
      tile.template stage<false>(a, b, valid, diagonal);
    else
      tile.template stage<true>(a, b, valid, diagonal);
    if (s % tile.kFlush == tile.kFlush - 1) tile.flush();
  }
  if (idle) return;
  tile.flush();
  const int64_t piece = S::kPanel == 32 ? blockIdx.y * 4 + warp : blockIdx.y;
  double* out = partial + (piece * plan.n_tiles + blockIdx.x) * tile_size(S::kPanel);
  tile.store(out + ca * S::kPanel + cb, S::kPanel, diagonal ? out + S::kPanel * S::kPanel + ca : nullptr);
}

struct Targets {  // where sums and grams of the state are
  double* sums[kMostViews];
  double* grams[kMostViews][kMostViews];
  unsigned long long* nonfinite;
  int64_t batch;
};

static_assert(sizeof(Plan) + sizeof(Targets) + 32 <= 4096, "kernel parameters beyond 4 KiB need newer drivers");

constexpr int kEntries = 32, kGroups = 8;  // entries per block; threads that share an entry's pieces

// Adds the pieces of each entry in a fixed order: kGroups interleaved sums, then those one after another.
__global__ void __launch_bounds__(kEntries* kGroups)
    add_pieces(const __grid_constant__ Plan plan, const __grid_constant__ Targets targets, const double* partial,
               int panel, int64_t pieces) {
  struct Storage {
    double sum[kGroups][kEntries];
  };
  auto& storage = static_shared<Storage>();
  const int lane = int(threadIdx.x) % kEntries, group = int(threadIdx.x) / kEntries;
  const int entry = int(blockIdx.x) * kEntries + lane, tile = int(blockIdx.y);
  const int pa = plan.tiles[tile] >> 8, pb = plan.tiles[tile] & 255;
  const bool is_sum = entry >= panel * panel;
  const int row = pa * panel + (is_sum ? entry - panel * panel : entry / panel);
  const int column = is_sum ? row : pb * panel + entry % panel;
  double* to = nullptr;
  double* mirror = nullptr;
  int i = -1;
  if (row <= column && (!is_sum || (pa == pb && entry < panel * panel + panel))) {
    i = plan.view_of(row);
    const int j = plan.view_of(column);
    if (i >= 0 && j >= 0) {
      const Source &a = plan.views[i], &b = plan.views[j];
      const int64_t r = row - a.first, c = column - b.first;
      if (is_sum) {
        if (targets.sums[i]) to = targets.sums[i] + r;
      } else if (double* gram = targets.grams[i][j]) {
        to = gram + r * b.channels + c;
        if (i == j && r != c) mirror = gram + c * b.channels + r;
      }
    }
  }
  double sum = 0;
  if (to) {
    const double* p = partial + tile * tile_size(panel) + entry;
#pragma unroll 4
    for (int64_t piece = group; piece < pieces; piece += kGroups) sum += p[piece * plan.n_tiles * tile_size(panel)];
  }
  storage.sum[group][lane] = sum;
  __syncthreads();
  if (group || !to) return;
  for (int g = 1; g < kGroups; ++g) sum += storage.sum[g][lane];
  if (!isfinite(sum)) {
    // A channel's own sum names it; an entry that two channels share only says that one of them is at fault.
    const unsigned long long batch = targets.batch, unsure = row != column, view = i,
                             channel = row - plan.views[i].first;
    atomicMin(targets.nonfinite, batch << 40 | unsure << 39 | view << 32 | channel);
  }
  *to += sum;
  if (mirror) *mirror = *to;
}

template <class S> cudaError_t start(const Plan& plan, double* partial, cudaStream_t stream) {
  return launch({dim3(unsigned(plan.n_tiles), unsigned(plan.splits)), dim3(kThreads), S::kSharedBytes, stream},
                products<S>, plan, partial);
}
template <class T, class P> cudaError_t start(const Layout& layout, double* partial, cudaStream_t stream) {
  if (layout.panel == 32)
    return layout.row_major ? start<Shape<T, P, true, 32>>(layout.plan, partial, stream)
                            : start<Shape<T, P, false, 32>>(layout.plan, partial, stream);
  return layout.row_major ? start<Shape<T, P, true, 64>>(layout.plan, partial, stream)
                          : start<Shape<T, P, false, 64>>(layout.plan, partial, stream);
}
cudaError_t start(const Layout& layout, Dtype dtype, double* partial, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::float32:
      return layout.float64 ? start<float, double>(layout, partial, stream)
                            : start<float, float>(layout, partial, stream);
    case Dtype::float64: return start<double, double>(layout, partial, stream);
    case Dtype::float16:
      return layout.float64 ? start<Half, double>(layout, partial, stream)
                            : start<Half, float>(layout, partial, stream);
    case Dtype::bfloat16:
      return layout.float64 ? start<Bfloat, double>(layout, partial, stream)
                            : start<Bfloat, float>(layout, partial, stream);
    default: return cudaErrorInvalidValue;
  }
}

int rows_in_stage(const Layout& layout, Dtype dtype) {
  return int(128 / size_of(dtype)) * (layout.panel == 32 ? 4 : 1);
}
int64_t pieces_of(const Layout& layout) { return int64_t(layout.plan.splits) * (layout.panel == 32 ? 4 : 1); }

// The tiles in which a wanted pair meets, kMostTiles at a time: calls back with the plan of each launch.
template <class Act> void for_each_launch(const Problem& problem, Layout& layout, Act act) {
  Plan& plan = layout.plan;
  int total = 0;
  for (int a = 0; a < layout.n_panels; ++a)
    for (int b = a; b < layout.n_panels; ++b) total += wanted(layout, problem, a, b);
  if (!total) return;
  cut_rows(plan, std::min(total, kMostTiles), rows_in_stage(layout, problem.views[0].dtype));
  plan.n_tiles = 0;
  for (int a = 0; a < layout.n_panels; ++a)
    for (int b = a; b < layout.n_panels; ++b) {
      if (!wanted(layout, problem, a, b)) continue;
      plan.tiles[plan.n_tiles++] = uint16_t(a << 8 | b);
      if (plan.n_tiles == kMostTiles) act(), plan.n_tiles = 0;
    }
  if (plan.n_tiles) act();
}

// Doubles that the norms need: one per row and view, then scratch. Zero when no pair asks for norms.
int64_t norms_doubles(const Problem& problem) {
  int64_t scratch = 0;
  for (int p = 0; p < problem.n_pairs; ++p)
    if (problem.pairs[p].norms)
      scratch = std::max({scratch, norms_scratch(problem.views[problem.pairs[p].i]),
                          norms_scratch(problem.views[problem.pairs[p].j])});
  return scratch ? scratch + problem.n_views * problem.views[0].rows() : 0;
}

cudaError_t add_norms(const Problem& problem, double* workspace, cudaStream_t stream) {
  const int64_t rows = problem.views[0].rows();
  double* scratch = workspace + problem.n_views * rows;
  cudaError_t error = cudaSuccess;
  auto then = [&](auto step) {
    if (error == cudaSuccess) error = step();
  };
  for (int v = 0; v < problem.n_views; ++v)
    then([&] { return squared_norms(problem.views[v], workspace + v * rows, stream); });
  for (int p = 0; p < problem.n_pairs; ++p) {
    const Pair& pair = problem.pairs[p];
    if (!pair.norms) continue;
    const View &x = problem.views[pair.i], &y = problem.views[pair.j];
    const double *nx = workspace + pair.i * rows, *ny = workspace + pair.j * rows;
    double *to_x = pair.norms + 1, *to_y = to_x + x.channels;
    then([&] { return inner_product(nx, ny, rows, scratch, pair.norms, stream); });
    then([&] { return weigh(x, ny, scratch, to_x, pair.i == pair.j ? to_y : nullptr, stream); });
    if (pair.i != pair.j) then([&] { return weigh(y, nx, scratch, to_y, nullptr, stream); });
  }
  return error;
}

}  // namespace

size_t workspace_bytes(const Problem& problem) {
  Layout layout = lay_out(problem);
  if (!layout.valid) return 0;
  int64_t doubles = norms_doubles(problem);
  for_each_launch(problem, layout, [&] {
    doubles = std::max(doubles, pieces_of(layout) * layout.plan.n_tiles * tile_size(layout.panel));
  });
  return size_t(doubles) * sizeof(double);
}

cudaError_t update(const Problem& problem, const NonFiniteNote& note, void* workspace, cudaStream_t stream) {
  Layout layout = lay_out(problem);
  if (!layout.valid) return cudaErrorInvalidValue;
  Targets targets{};
  targets.nonfinite = note.least, targets.batch = note.batch;
  for (int v = 0; v < problem.n_views; ++v) targets.sums[v] = problem.views[v].sum;
  for (int p = 0; p < problem.n_pairs; ++p) {
    const Pair& pair = problem.pairs[p];
    if (pair.i > pair.j) return cudaErrorInvalidValue;
    targets.grams[pair.i][pair.j] = pair.gram;
  }
  auto* doubles = static_cast<double*>(workspace);
  cudaError_t error = cudaSuccess;
  for_each_launch(problem, layout, [&] {
    if (error == cudaSuccess) error = start(layout, problem.views[0].dtype, doubles, stream);
    if (error != cudaSuccess) return;
    const dim3 grid(unsigned((tile_size(layout.panel) + kEntries - 1) / kEntries), unsigned(layout.plan.n_tiles));
    error = launch({grid, dim3(kEntries * kGroups), 0, stream}, add_pieces, layout.plan, targets, doubles, layout.panel,
                   pieces_of(layout));
  });
  // The partial tiles have been read by then: the norms take the same memory.
  return error == cudaSuccess && norms_doubles(problem) ? add_norms(problem, doubles, stream) : error;
}

}  // namespace prunecca::cuda
