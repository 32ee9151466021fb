"""The systems there are: which classes and settings make one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from galaxy_mpi.ccl import (
    CCL,
    Buffers,
    BuffersPerCall,
    DecodeCCL,
    PersistentBuffers,
    PrefillCCL,
    SeparateCCL,
    SeparateDecodeCCL,
)
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems.decode_timing import DecodeTiming
from galaxy_mpi.systems.galaxy import GalaxyDecode, GalaxyPrefill
from galaxy_mpi.systems.galaxy_prefill_timing import GalaxyPrefillTiming
from galaxy_mpi.systems.galaxy_timing import GalaxyDecodeTiming
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.prefill_timing import PrefillTiming
from galaxy_mpi.systems.system import DecodeSystem
from galaxy_mpi.systems.timing import Fabric
from galaxy_mpi.systems.tt_transformers import TtTransformersDecode, TtTransformersPrefill
from galaxy_mpi.systems.tt_transformers_1d import ScatteredDecode, ScatteredPrefill
from galaxy_mpi.systems.tt_transformers_prefill_timing import (
    ScatteredPrefillTiming,
    TtTransformersPrefillTiming,
)
from galaxy_mpi.systems.tt_transformers_timing import (
    ScatteredDecodeTiming,
    TtTransformersDecodeTiming,
)

__all__ = ["SYSTEMS", "System", "system_of"]

SYSTEMS = ("galaxy", "tt_transformers")


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to run a model: chosen once, at the beginning."""

    name: str
    decode: type[DecodeSystem]
    prefill: type[PrefillSystem]
    decode_timing: type[DecodeTiming]
    prefill_timing: type[PrefillTiming]
    decode_ccl: Callable[..., CCL] = DecodeCCL
    prefill_ccl: Callable[..., PrefillCCL] = PrefillCCL
    buffers: type[Buffers] = PersistentBuffers
    fabric: Fabric = field(default_factory=Fabric)
    prefetch: bool = True
    """Whether weights of a decode step come through the prefetcher."""
    is_scattered: bool = False
    """Whether the stream stays cut over all chips, which are one row or column."""

    def mesh(self, asked: Mesh) -> Mesh:
        """Return the mesh as the system works on it: one of N chips as N rows of one."""
        return Mesh(asked.n_chips, 1) if self.is_scattered else asked


_GALAXY = System(
    name="galaxy",
    decode=GalaxyDecode,
    prefill=GalaxyPrefill,
    decode_timing=GalaxyDecodeTiming,
    prefill_timing=GalaxyPrefillTiming,
)

_TT_TRANSFORMERS = System(
    name="tt_transformers",
    decode=TtTransformersDecode,
    prefill=TtTransformersPrefill,
    decode_timing=TtTransformersDecodeTiming,
    prefill_timing=TtTransformersPrefillTiming,
    decode_ccl=SeparateDecodeCCL,
    prefill_ccl=SeparateCCL,
    buffers=BuffersPerCall,
    # tt_transformers/tt/model_config.py: num_all_gather_links, num_reduce_scatter_links.
    fabric=Fabric(is_line=True, gather_links=2, scatter_links=1, laps=2, skips_alone=True),
    prefetch=False,
)

_TT_TRANSFORMERS_1D = replace(
    _TT_TRANSFORMERS,
    decode=ScatteredDecode,
    prefill=ScatteredPrefill,
    decode_timing=ScatteredDecodeTiming,
    prefill_timing=ScatteredPrefillTiming,
    fabric=replace(_TT_TRANSFORMERS.fabric, gather_links=1),
    is_scattered=True,
)


def system_of(name: str, mesh: Mesh) -> System:
    """Return the system of a name for a mesh.

    Raises
    ------
    ConfigError
        If there is none of that name.

    Examples
    --------
    >>> system_of("tt_transformers", Mesh(1, 8)).mesh(Mesh(1, 8))
    Mesh(rows=8, cols=1)
    """
    if name == "galaxy":
        return _GALAXY
    if name == "tt_transformers":
        return _TT_TRANSFORMERS_1D if 1 in (mesh.rows, mesh.cols) else _TT_TRANSFORMERS
    raise ConfigError(f"no system {name!r}; choose {', '.join(SYSTEMS)}")
