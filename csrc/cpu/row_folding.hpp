// Narrow representations: a panel holds kPanel channels whatever is in it, so that of (N, 1) most of the work would be
// on zeros. Where rows follow each other in memory, several are read as one with so many times the channels; the
// products that are wanted then lie in the blocks on the diagonal, which are added up.
#pragma once
#include <vector>

#include "cpu/covariance.hpp"

namespace prunecca::cpu {

// How many rows to read as one; 1 where that cannot be done or does not pay.
int fold_of(const Problem& problem);

// The whole groups of `fold` rows of a problem, with states of their own, and the few rows that are left.
class RowFolding {
 public:
  RowFolding(const Problem& problem, int fold);
  RowFolding(const RowFolding&) = delete;  // its problems point into it

  const Problem& groups() const { return groups_; }
  const Problem& rest() const { return rest_; }
  void add_groups() const;  // to the states of the problem
  // Of the groups: the square of a channel of pair k, a view with itself, and the sum of one of view v.
  double square(int k, int64_t channel) const;
  double sum(int v, int64_t channel) const;

 private:
  const Problem& problem_;
  int fold_;
  std::vector<View> group_views_, rest_views_;
  std::vector<Pair> group_pairs_;
  std::vector<std::vector<double>> shifts_, sums_, grams_;
  Problem groups_, rest_;
};

}  // namespace prunecca::cpu
