// The kernel tables of x86-64, the fastest first, and which of them this processor runs.
#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "select.h"

namespace kblam {

namespace portable {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512vnni {
extern const Kernels kernels;
}
namespace avx512bf16 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}

// Every processor with AVX2 and FMA has F16C.
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

inline bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

inline bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }

// A process asks Linux once for the registers, which are 8 KB a thread.
inline bool has_amx() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    constexpr unsigned NEEDED = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & NEEDED) != NEEDED) return false;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of arch_prctl
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  }();
  return granted;
}

inline std::array<Candidate, 6> candidates() {
  __builtin_cpu_init();
  return {{
      {&amx::kernels, has_amx},
      {&avx512bf16::kernels, has_avx512bf16},
      {&avx512vnni::kernels, has_avx512vnni},
      {&avx512::kernels, has_avx512},
      {&avx2::kernels, has_avx2},
      {&portable::kernels, [] { return true; }},
  }};
}

}  // namespace kblam
