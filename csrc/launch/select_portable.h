// The kernel tables of a processor that has none of its own.
#pragma once

#include <array>

#include "select.h"

namespace kblam {

namespace portable {
extern const Kernels kernels;
}

inline std::array<Candidate, 1> candidates() {
  return {{{&portable::kernels, [] { return true; }}}};
}

}  // namespace kblam
