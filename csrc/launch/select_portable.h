// The kernel tables of processors without tables of their own.
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
