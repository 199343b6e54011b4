// The kernel table of one instruction set: include after its header, with KBLAM_ISA defined and Isa declared.
#include "latent_tile.h"
#include "mass_tile.h"
#include "project.h"
#include "stream.h"
#include "tile_absorb.h"

namespace kblam::KBLAM_ISA {

extern const Kernels kernels;

const Kernels kernels = {
    .name = Isa::NAME,
    .stream = {stream_absorb<float>, stream_absorb<bfloat16>, stream_absorb<float16>},
    .tile = {tile_absorb<float>, tile_absorb<bfloat16>, tile_absorb<float16>},
    .stream_queries = {stream_queries<float>(), stream_queries<bfloat16>(), stream_queries<float16>()},
    .tile_queries = {tile_queries<float>(), tile_queries<bfloat16>(), tile_queries<float16>()},
    .latent = latent_absorb,
    .lane_rows = lane_rows,
    .mass = add_mass,
    .add_scaled = add_scaled,
    .mix_rows = mix_rows,
    .dot_rows = dot_rows,
    .widen_row = widen_row,
    .stream_scratch = stream_scratch,
    .tile_scratch = tile_scratch,
    .latent_scratch = latent_scratch,
};

}  // namespace kblam::KBLAM_ISA
