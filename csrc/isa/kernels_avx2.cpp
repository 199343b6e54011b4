#define KBLAM_ISA avx2
#include "simd_avx2.h"

namespace kblam::KBLAM_ISA {
using Isa = Avx2;
}

#include "kernels/table.inl"
