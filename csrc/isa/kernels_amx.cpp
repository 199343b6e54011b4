#define KBLAM_ISA amx
#include "simd_amx.h"

namespace kblam::KBLAM_ISA {
using Isa = Amx;
}

#include "kernels/table.inl"
