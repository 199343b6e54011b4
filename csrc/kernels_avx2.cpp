#define KBLAM_ISA avx2
#define KBLAM_NAME "avx2"
#define KBLAM_TABLE kernels_avx2
#include "kblam/simd_avx2.h"
#include "kblam/kernels.inl"
