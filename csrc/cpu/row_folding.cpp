#include "cpu/row_folding.hpp"

#include <algorithm>
#include <utility>

namespace prunecca::cpu {

namespace {

constexpr int64_t kFewestRows = 4096;

bool rows_follow_each_other(const View& v) {
  if (v.channels > 1 && v.channel_stride != 1) return false;
  int64_t stride = v.channels;
  for (const auto& [size, step] :
       {std::pair(v.inner, v.inner_stride), std::pair(v.middle, v.middle_stride), std::pair(v.outer, v.outer_stride)}) {
    if (size > 1 && step != stride) return false;
    stride *= size;
  }
  return true;
}

// Rows [begin, begin + count * fold) of such a view, `fold` at a time.
View rows_of(const View& v, int64_t begin, int64_t count, int fold) {
  View out = v;
  out.data = static_cast<const char*>(v.data) + begin * v.channels * size_of(v.dtype);
  out.channels = out.inner_stride = fold * v.channels;
  out.channel_stride = out.middle = out.outer = 1;
  out.inner = count;
  return out;
}

}  // namespace

int fold_of(const Problem& problem) {
  if (problem.kept) return 1;  // rows no longer follow each other
  int64_t widest = 1;
  for (int v = 0; v < problem.n_views; ++v) {
    if (problem.views[v].rows() < kFewestRows || !rows_follow_each_other(problem.views[v])) return 1;
    widest = std::max(widest, problem.views[v].channels);
  }
  for (int k = 0; k < problem.n_pairs; ++k)
    if (problem.pairs[k].norms) return 1;  // of single rows
  return int(std::max<int64_t>(1, kPanel / widest));
}

RowFolding::RowFolding(const Problem& problem, int fold)
    : problem_(problem), fold_(fold), groups_(problem), rest_(problem) {
  for (int v = 0; v < problem.n_views; ++v) {
    const View& view = problem.views[v];
    const int64_t groups = view.rows() / fold;
    std::vector<double>& shift = shifts_.emplace_back();
    for (int j = 0; j < fold; ++j) shift.insert(shift.end(), view.shift, view.shift + view.channels);
    std::vector<double>& sum = sums_.emplace_back(shift.size(), 0.0);
    group_views_.push_back(rows_of(view, 0, groups, fold));
    group_views_.back().shift = shift.data();
    group_views_.back().sum = sum.data();
    rest_views_.push_back(rows_of(view, groups * fold, view.rows() - groups * fold, 1));
  }
  for (int k = 0; k < problem.n_pairs; ++k) {
    const Pair& pair = problem.pairs[k];
    grams_.emplace_back(group_views_[pair.i].channels * group_views_[pair.j].channels, 0.0);
    group_pairs_.push_back({pair.i, pair.j, grams_.back().data(), nullptr});
  }
  groups_.views = group_views_.data();
  groups_.pairs = group_pairs_.data();
  rest_.views = rest_views_.data();
}

void RowFolding::add_groups() const {
  for (int v = 0; v < problem_.n_views; ++v)
    for (size_t c = 0; problem_.views[v].sum && c < sums_[v].size(); ++c)
      problem_.views[v].sum[c % problem_.views[v].channels] += sums_[v][c];
  for (int k = 0; k < problem_.n_pairs; ++k) {
    const Pair& pair = problem_.pairs[k];
    const int64_t ci = problem_.views[pair.i].channels, cj = problem_.views[pair.j].channels;
    for (int64_t g = 0; g < fold_; ++g)
      for (int64_t a = 0; a < ci; ++a)
        for (int64_t b = pair.i == pair.j ? a : 0; b < cj; ++b)
          pair.gram[a * cj + b] += grams_[k][(g * ci + a) * fold_ * cj + g * cj + b];
  }
}

double RowFolding::square(int k, int64_t channel) const {
  const int64_t channels = problem_.views[problem_.pairs[k].i].channels;
  double total = 0;
  for (int64_t at = channel; at < fold_ * channels; at += channels) total += grams_[k][at * (fold_ * channels + 1)];
  return total;
}

double RowFolding::sum(int v, int64_t channel) const {
  double total = 0;
  for (int64_t at = channel; at < int64_t(sums_[v].size()); at += problem_.views[v].channels) total += sums_[v][at];
  return total;
}

}  // namespace prunecca::cpu
