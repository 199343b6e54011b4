#define KBLAM_ISA portable
#define KBLAM_NAME "portable"
#define KBLAM_TABLE kernels_portable
#include "simd_portable.h"
#include "kernels/table.inl"
