// The kernel table of one instruction set: include after its header, with KBLAM_ISA defined and Isa declared.
#include "latent_tile.h"
#include "mass_tile.h"
#include "project.h"
#include "stream.h"
#include "tile_absorb.h"

namespace kblam::KBLAM_ISA {

extern const Kernels kernels;

const Kernels kernels = {
    Isa::NAME,
    {stream_absorb<float>, stream_absorb<bfloat16>, stream_absorb<float16>},
    {tile_absorb<float>, tile_absorb<bfloat16>, tile_absorb<float16>},
    {stream_queries<float>(), stream_queries<bfloat16>(), stream_queries<float16>()},
    {tile_queries<float>(), tile_queries<bfloat16>(), tile_queries<float16>()},
    latent_absorb,
    lane_rows,
    add_mass,
    add_scaled,
    mix_rows,
    dot_rows,
    widen_row,
    stream_scratch,
    tile_scratch,
    latent_scratch,
};

}  // namespace kblam::KBLAM_ISA
