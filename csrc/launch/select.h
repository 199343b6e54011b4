// Which kernel table this processor runs.
#pragma once

#include "kernels/interface.h"

namespace kblam {

struct Candidate {
  const Kernels* kernels;
  bool (*runs)();
};

// The fastest table of the processor, or the one called `name`; null if there is none.
const Kernels* select_kernels(const char* name);

}  // namespace kblam
