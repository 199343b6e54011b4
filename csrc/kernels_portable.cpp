#define KBLAM_ISA portable
#define KBLAM_NAME "portable"
#define KBLAM_TABLE kernels_portable
#include "kblam/simd_portable.h"
#include "kblam/kernels.inl"
