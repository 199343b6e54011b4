#define KBLAM_ISA avx512bf16
#define KBLAM_NAME "avx512bf16"
#define KBLAM_TABLE kernels_avx512bf16
#include "simd_avx512.h"
#include "kernels/table.inl"
