// One check macro, and the way from a CUDA error code to an exception.
#pragma once
#include <sstream>
#include <stdexcept>

namespace prunecca {

template <class... Parts> [[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());  // pybind11 turns it into ValueError
}

}  // namespace prunecca

// PRUNECCA_CHECK(condition, "what was given", value, ", what was expected"): ValueError when it does not hold.
#define PRUNECCA_CHECK(condition, ...) \
  do {                                 \
    if (!(condition)) [[unlikely]]     \
      ::prunecca::fail(__VA_ARGS__);   \
  } while (0)
