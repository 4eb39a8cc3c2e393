// The execution model: one fiber per CUDA thread, switched only at barriers and warp operations.
//
// Blocks run one after another. The order in which fibers resume is a test input, emu::order. A kernel whose result
// depends on it lacks a barrier. A barrier that some threads never reach is reported as a deadlock.
//
// Not modelled: reordering by the memory model, timing, bank conflicts, occupancy, clusters, the bulk copy engine.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "types.hpp"

inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim{}, gridDim{};

namespace emu {

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

// ---- A stack switch that saves only the callee-saved registers ----------------------------------------------------
#if defined(__x86_64__)
extern "C" void emu_switch(void** save, void* load);
asm(R"(.text
.weak emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size emu_switch,.-emu_switch
)");
inline void* make_stack(char* base, size_t size, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(base + size) & ~uintptr_t(15);
  auto sp = reinterpret_cast<void**>(top - 8);  // rsp % 16 == 8 at entry, as after a call
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  return sp;
}
#else
#error "emulation: add a stack switch for this architecture (aarch64: x19-x30, d8-d15)"
#endif

// The stacks of all fibers, each above a page that faults when the stack overflows into it. Never given back.
inline char* stack_of(unsigned rank) {
  constexpr size_t kPage = 4096;
  static std::vector<char*> stacks;
  while (stacks.size() <= rank) {
    void* p =
        mmap(nullptr, kPage + (192 << 10), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, kPage, PROT_NONE)) die("no memory for the stacks");
    stacks.push_back(static_cast<char*>(p) + kPage);
  }
  return stacks[rank];
}
// Hot stack lines of different fibers fall into different cache sets.
inline size_t stack_size(unsigned rank) { return (192 << 10) - 320 * (rank % 64); }

// ---- Blocks, warps, barriers --------------------------------------------------------------------------------------
// Shared memory of a block: without and with asking for more, which is done per kernel (cudaFuncSetAttribute).
constexpr size_t kPlainShared = 48 << 10, kMostShared = 227 << 10;
inline std::map<const void*, size_t> granted_shared;

constexpr int kWarp = 32, kPayload = 64;  // bytes that one lane can publish in a warp operation

struct Barrier {
  unsigned arrived = 0, generation = 0, votes = 0, result = 0;
};
struct WarpOp {
  unsigned mask = 0;
  Barrier barrier;
  alignas(16) char slot[2][kWarp][kPayload];
};
struct Warp {
  unsigned alive = 0;
  std::vector<std::unique_ptr<WarpOp>> ops;
};
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, filled, group;
};
struct Fiber {
  void* sp = nullptr;
  uint3 thread{};
  unsigned rank = 0, groups = 0;  // groups: how many groups of asynchronous copies were committed
  bool done = false;
  std::vector<Copy> copies{};  // issued, not yet landed
};
struct Block {
  dim3 dim;
  unsigned threads = 0, alive = 0;
  Barrier barrier;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned> order;
  std::unique_ptr<void, void (*)(void*)> shared{nullptr, std::free};
  size_t shared_bytes = 0, static_bytes = 0, most_shared = kPlainShared;
  void* scheduler = nullptr;
  Fiber* current = nullptr;
  bool progress = false;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
};
inline Block* block = nullptr;
inline uint64_t blocks_started = 0;
inline int order = 0;  // 0: by rank; -1: backwards; otherwise a seed that shuffles the threads at every round

inline void yield() { emu_switch(&block->current->sp, block->scheduler); }
inline void entry() {
  block->body(block->arguments);
  Fiber& f = *block->current;
  f.done = true;
  block->progress = true;
  --block->alive;
  block->warps[f.rank / kWarp].alive &= ~(1u << f.rank % kWarp);
  yield();
  die("a finished thread was resumed");
}

// Waits until `complete()` holds for this generation. The check runs again on every resume, so that a thread that
// exits while others wait releases them, as on the device.
template <class Complete> void wait(Barrier& b, Complete complete, bool vote = false) {
  const unsigned generation = b.generation;
  ++b.arrived;
  b.votes += vote;
  block->progress = true;
  while (b.generation == generation) {
    if (complete(b)) {
      b.result = b.votes;
      b.arrived = b.votes = 0;
      ++b.generation;
      block->progress = true;
      return;
    }
    yield();
  }
}
// The vote count stays readable until every thread has arrived at the next barrier.
inline int sync_block(bool vote = false) {
  wait(block->barrier, [](Barrier& b) { return b.arrived == block->alive; }, vote);
  return int(block->barrier.result);
}

// Every lane that `mask` names publishes `value`, waits for the others, then sees all values through `read`.
// Two slots suffice: a lane reaches operation k + 2 only after all lanes have read operation k.
template <class T, class Read> auto gather(unsigned mask, const T& value, Read read) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kPayload);
  Fiber& f = *block->current;
  Warp& warp = block->warps[f.rank / kWarp];
  const unsigned lane = f.rank % kWarp;
  if (!(mask >> lane & 1)) die("a lane called a warp operation whose mask does not name it");
  auto it = std::find_if(warp.ops.begin(), warp.ops.end(), [&](auto& o) { return o->mask == mask; });
  if (it == warp.ops.end()) {
    warp.ops.push_back(std::make_unique<WarpOp>());
    it = warp.ops.end() - 1;
    (*it)->mask = mask;
  }
  WarpOp& op = **it;
  auto* slot = op.slot[op.barrier.generation & 1];
  std::memcpy(slot[lane], &value, sizeof value);
  wait(op.barrier, [&](Barrier& b) { return b.arrived == unsigned(__builtin_popcount(mask & warp.alive)); });
  return read(
      [&](unsigned l) {
        T v;
        std::memcpy(&v, slot[l & 31], sizeof v);
        return v;
      },
      lane);
}

inline void run_block(Block& b, std::mt19937& rng) {
  const unsigned n = b.threads;
  b.alive = n;
  b.static_bytes = 0;
  b.barrier = {};
  b.warps.clear();
  b.warps.resize((n + kWarp - 1) / kWarp);
  for (unsigned r = 0; r < n; ++r) {
    Fiber& f = b.fibers[r];
    f = Fiber{};
    f.sp = make_stack(stack_of(r), stack_size(r), entry);
    f.thread = {r % b.dim.x, r / b.dim.x % b.dim.y, r / (b.dim.x * b.dim.y)};
    f.rank = r;
    b.warps[r / kWarp].alive |= 1u << r % kWarp;
    b.order[r] = order < 0 ? n - 1 - r : r;
  }
  while (b.alive) {
    if (order > 0) std::shuffle(b.order.begin(), b.order.end(), rng);
    b.progress = false;
    for (unsigned r : b.order) {
      Fiber& f = b.fibers[r];
      if (f.done) continue;
      b.current = &f;
      threadIdx = f.thread;
      emu_switch(&b.scheduler, f.sp);
    }
    if (!b.progress) die("deadlock: threads wait at different barriers, or at one that some never reach");
  }
}

// An allocation of exactly this size, so that AddressSanitizer's redzone begins at its end.
inline void* aligned_memory(size_t bytes, size_t alignment = 128) {
  void* p = nullptr;
  if (posix_memalign(&p, alignment, bytes)) die("no memory");
  return p;
}

template <class F> void launch(dim3 grid, dim3 dim, size_t shared, bool opted_in, F body) {
  Block b;
  b.most_shared = opted_in ? kMostShared : kPlainShared;
  b.dim = dim;
  b.threads = dim.x * dim.y * dim.z;
  b.fibers.resize(b.threads);
  b.order.resize(b.threads);
  b.body = [](void* f) { (*static_cast<F*>(f))(); };
  b.arguments = &body;
  b.shared_bytes = shared;
  b.shared.reset(aligned_memory(shared));
  Block* outer = std::exchange(block, &b);
  std::mt19937 rng{unsigned(order)};
  for (uint64_t i = 0; i < uint64_t(grid.x) * grid.y * grid.z; ++i) {
    ++blocks_started;
    std::memset(b.shared.get(), 0xff, shared);  // NaN: shared memory that was not written must show
    blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (uint64_t(grid.x) * grid.y))};
    gridDim = grid;
    blockDim = dim;
    run_block(b, rng);
  }
  block = outer;
}

inline void* dynamic_shared() { return block->shared.get(); }
template <class T> T& static_shared() {
  static T* memory = static_cast<T*>(aligned_memory(sizeof(T)));
  static uint64_t used_by = 0;
  if (used_by != blocks_started) {
    std::memset(static_cast<void*>(memory), 0xff, sizeof(T));
    block->static_bytes += sizeof(T);
    if (block->static_bytes + block->shared_bytes > block->most_shared)
      die("static and dynamic shared memory together are more than was asked for");
  }
  used_by = blocks_started;
  return *memory;
}

// Asynchronous copies land only at the wait, so that a kernel that forgets to wait reads stale shared memory.
inline void copy_async(void* to, const void* from, unsigned bytes, unsigned filled) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (filled && reinterpret_cast<uintptr_t>(from) % bytes))
    die("a misaligned asynchronous copy");
  Fiber& f = *block->current;
  f.copies.push_back({to, from, bytes, filled, f.groups});
}
inline void commit_copies() { ++block->current->groups; }
inline void wait_copies(unsigned left) {
  Fiber& f = *block->current;
  std::erase_if(f.copies, [&](const Copy& c) {
    if (c.group + left >= f.groups) return false;
    std::memset(c.to, 0, c.bytes);
    if (c.filled) std::memcpy(c.to, c.from, c.filled);
    return true;
  });
}

}  // namespace emu
