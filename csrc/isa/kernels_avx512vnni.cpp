#define KBLAM_ISA avx512vnni
#define KBLAM_NAME "avx512vnni"
#define KBLAM_TABLE kernels_avx512vnni
#include "simd_avx512.h"
#include "kernels/table.inl"
