#include "kblam/select.h"

#include <cstring>

namespace kblam {

extern const Kernels kernels_portable;
#ifdef KBLAM_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512vnni;
extern const Kernels kernels_avx512bf16;
#endif

namespace {

struct Candidate {
  const Kernels* kernels;
  bool (*runs)();
};

#ifdef KBLAM_X86
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

const Candidate CANDIDATES[] = {
#ifdef KBLAM_X86
    {&kernels_avx512bf16,
     [] { return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"); }},
    {&kernels_avx512vnni, [] { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }},
    {&kernels_avx512, has_avx512},
    // Every processor with AVX2 and FMA has F16C.
    {&kernels_avx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {&kernels_portable, [] { return true; }},
};

}  // namespace

const Kernels* select_kernels(const char* name) {
#ifdef KBLAM_X86
  __builtin_cpu_init();
#endif
  for (const Candidate& candidate : CANDIDATES)
    if ((*name == 0 || std::strcmp(name, candidate.kernels->name) == 0) && candidate.runs()) return candidate.kernels;
  return nullptr;
}

}  // namespace kblam
