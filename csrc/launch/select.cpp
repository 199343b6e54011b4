#include "select.h"

#include <cstring>

#if defined(KBLAM_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kblam {

extern const Kernels kernels_portable;
#ifdef KBLAM_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512vnni;
extern const Kernels kernels_avx512bf16;
extern const Kernels kernels_amx;
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

bool has_bfloat16() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

// A process asks the system once for the registers, which are 8 KB a thread.
bool has_amx() {
#ifdef __linux__
  static const bool granted = [] {
    unsigned a, b, c, d;
    constexpr unsigned NEEDED = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    if (!has_bfloat16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & NEEDED) != NEEDED) return false;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of arch_prctl
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  }();
  return granted;
#else
  return false;
#endif
}
#endif

const Candidate CANDIDATES[] = {
#ifdef KBLAM_X86
    {&kernels_amx, has_amx},
    {&kernels_avx512bf16, has_bfloat16},
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
