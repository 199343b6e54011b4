#define KBLAM_ISA avx2
#define KBLAM_NAME "avx2"
#define KBLAM_TABLE kernels_avx2
#include "simd_avx2.h"
#include "kernels/table.inl"
