#define KBLAM_ISA amx
#define KBLAM_NAME "amx"
#define KBLAM_TABLE kernels_amx
#include "kblam/simd_amx.h"
#include "kblam/kernels.inl"
