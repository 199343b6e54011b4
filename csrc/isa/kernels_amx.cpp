#define KBLAM_ISA amx
#define KBLAM_NAME "amx"
#define KBLAM_TABLE kernels_amx
#include "simd_amx.h"
#include "kernels/table.inl"
