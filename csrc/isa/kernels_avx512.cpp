#define KBLAM_ISA avx512
#define KBLAM_NAME "avx512"
#define KBLAM_TABLE kernels_avx512
#include "simd_avx512.h"
#include "kernels/table.inl"
