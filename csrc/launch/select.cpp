#include "select.h"

#include <cstring>

#ifdef KBLAM_X86
#include "select_x86.h"
#else
#include "select_portable.h"
#endif

namespace kblam {

const Kernels* select_kernels(const char* name) {
  for (const Candidate& candidate : candidates())
    if ((*name == 0 || std::strcmp(name, candidate.kernels->name) == 0) && candidate.runs()) return candidate.kernels;
  return nullptr;
}

}  // namespace kblam
