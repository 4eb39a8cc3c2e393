// What threads that share one state take: parts of a range, and squares of blocks.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/covariance_plan.hpp"

namespace prunecca::cpu {

constexpr int64_t kMostSide = 8;        // panels on a side of a task: two operands of 128 KiB each stay in L2
constexpr int64_t kTasksPerThread = 4;  // fewer would leave threads waiting for the last one

struct Range {
  int64_t begin, end;
};
inline Range share(int64_t n, int part, int parts) { return {n * part / parts, n * (part + 1) / parts}; }

struct Task {
  int pair;
  int64_t p0, p1, q0, q1;  // panels of its first view, and of its second
};

// The blocks of all pairs in squares of `side` panels; of a symmetric pair, those on and above the diagonal.
template <class T> std::vector<Task> squares_of(const Plan<T>& plan, int64_t side) {
  std::vector<Task> tasks;
  for (int k = 0; k < plan.problem.n_pairs; ++k) {
    const Pair& pair = plan.problem.pairs[k];
    const int64_t pi = panels_of(plan.problem.views[pair.i]), pj = panels_of(plan.problem.views[pair.j]);
    for (int64_t p = 0; p < pi; p += side)
      for (int64_t q = pair.i == pair.j ? p : 0; q < pj; q += side)
        tasks.push_back({k, p, std::min(p + side, pi), q, std::min(q + side, pj)});
  }
  return tasks;
}

// Enough tasks for all threads, those on a diagonal, of half the work, last: then no thread waits long for another.
template <class T> std::vector<Task> tasks_of(const Plan<T>& plan) {
  int64_t side = kMostSide;
  std::vector<Task> tasks = squares_of(plan, side);
  while (side > 1 && int64_t(tasks.size()) < kTasksPerThread * plan.threads) tasks = squares_of(plan, side /= 2);
  std::stable_partition(tasks.begin(), tasks.end(), [&](const Task& task) {
    const Pair& pair = plan.problem.pairs[task.pair];
    return pair.i != pair.j || task.p0 != task.q0;
  });
  return tasks;
}

}  // namespace prunecca::cpu
