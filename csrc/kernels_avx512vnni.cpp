#define KBLAM_ISA avx512vnni
#define KBLAM_NAME "avx512vnni"
#define KBLAM_TABLE kernels_avx512vnni
#include "kblam/simd_avx512.h"
#include "kblam/kernels.inl"
