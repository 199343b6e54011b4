#define KBLAM_ISA avx512
#include "simd_avx512.h"

namespace kblam::KBLAM_ISA {
using Isa = Avx512;
}

#include "kernels/table.inl"
