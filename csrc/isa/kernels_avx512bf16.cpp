#define KBLAM_ISA avx512bf16
#include "simd_avx512bf16.h"

namespace kblam::KBLAM_ISA {
using Isa = Avx512Bf16;
}

#include "kernels/table.inl"
