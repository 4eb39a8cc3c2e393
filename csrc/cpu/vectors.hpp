// The vectors of the instruction set that a file is compiled for.
#pragma once

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct Vec {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
// The same vector at any address of its element type; may_alias because it reads what others wrote as scalars.
template <class T> struct Loose {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T> constexpr int kLanes = kVectorBytes / int(sizeof(T));

}  // namespace
}  // namespace prunecca::cpu
