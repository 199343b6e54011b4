// The kernel table of one instruction set: include after its simd header, with KBLAM_ISA and KBLAM_TABLE defined.
#include "latent_tile.h"
#include "mass_tile.h"
#include "project.h"
#include "stream.h"
#include "tile_absorb.h"

namespace kblam {

extern const Kernels KBLAM_TABLE;

const Kernels KBLAM_TABLE = {
    KBLAM_NAME,
    {KBLAM_ISA::stream_absorb<float>, KBLAM_ISA::stream_absorb<bfloat16>, KBLAM_ISA::stream_absorb<float16>},
    {KBLAM_ISA::tile_absorb<float>, KBLAM_ISA::tile_absorb<bfloat16>, KBLAM_ISA::tile_absorb<float16>},
    {KBLAM_ISA::stream_queries<float>(), KBLAM_ISA::stream_queries<bfloat16>(), KBLAM_ISA::stream_queries<float16>()},
    {KBLAM_ISA::tile_queries<float>(), KBLAM_ISA::tile_queries<bfloat16>(), KBLAM_ISA::tile_queries<float16>()},
    KBLAM_ISA::latent_absorb,
    KBLAM_ISA::lane_rows,
    KBLAM_ISA::add_mass,
    KBLAM_ISA::add_scaled,
    KBLAM_ISA::mix_rows,
    KBLAM_ISA::dot_rows,
    KBLAM_ISA::widen_row,
    KBLAM_ISA::stream_scratch,
    KBLAM_ISA::tile_scratch,
    KBLAM_ISA::latent_scratch,
};

}  // namespace kblam
