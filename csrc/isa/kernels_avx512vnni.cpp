#define KBLAM_ISA avx512vnni
#include "simd_avx512vnni.h"

namespace kblam::KBLAM_ISA {
using Isa = Avx512Vnni;
}

#include "kernels/table.inl"
