// Asking for memory ahead of its use.
#pragma once

#include "interface.h"

namespace kblam::KBLAM_ISA {

// Memory that will be wanted soon, asked for bit by bit between products: a core has room for two dozen lines on their
// way, and stands still when it asks for more. `step` bytes at each step of a product; more than there is does no harm.
struct Fetches {
  const char* at;
  int64_t step;

  Fetches(const void* from, int64_t bytes, int64_t steps)
      : at(static_cast<const char*>(from)), step(steps > 0 ? (bytes + steps - 1) / steps : 0) {}

  void operator()(int64_t k) const {
    for (int64_t i = 0; i < step; i += 64) __builtin_prefetch(at + k * step + i, 0, 2);
  }
  void pass(int64_t steps) { at += steps * step; }
  // Of one step, for work that is not a product.
  void once() {
    (*this)(0);
    pass(1);
  }
};

}  // namespace kblam::KBLAM_ISA
