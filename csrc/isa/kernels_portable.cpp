#define KBLAM_ISA portable
#include "simd_portable.h"

namespace kblam::KBLAM_ISA {
using Isa = Portable;
}

#include "kernels/table.inl"
