"""The ideas of the Galaxy, one by one, as changes that turn TT-Transformers into it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from galaxy_mpi.ccl.algorithms import gather_and_add, gather_over, scatter_over
from galaxy_mpi.ccl.topology import Ring
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems import System, system_of

__all__ = ["FORMATS", "IDEAS", "Claim", "Idea", "Variant", "variants"]


@dataclass(frozen=True)
class Claim:
    """By how much an older description of the Galaxy said that an idea makes it faster."""

    text: str
    low: float
    """Time before over time after, at least."""
    high: float

    def factor(self, gain: float) -> float:
        """Return by what ``gain`` differs from the nearest that was claimed, 1 if by nothing.

        Of the gains over 1: half of what was claimed is 0.5.
        """
        nearest = min(max(gain, self.low), self.high)
        return (gain - 1) / (nearest - 1)


_FUSED = "fused ops"
_RING = "ring topology"

CLAIMS = {
    _RING: Claim("20-30 %", 1.20, 1.30),
    _FUSED: Claim("15-25 %", 1.15, 1.25),
    "persistent buffers": Claim("10-15 %", 1.10, 1.15),
    "prefetcher": Claim("20-30 %, or 2.3x", 1.20, 2.30),
    "all": Claim("50-75 %", 1.50, 1.75),
}
"""Of each group of ideas: an earlier write-up of this system (`galaxy_mpi.studies.claims`)."""


@dataclass(frozen=True)
class Idea:
    """One change."""

    name: str
    group: str
    """Of the claim that is about it."""
    apply: Callable[[System, System], System]
    """Takes a system and the Galaxy, and returns the system with the change."""


def _with_ops(*names: str) -> Callable[[System, System], System]:
    """Return a change that takes ops of a decode step from the Galaxy."""

    def apply(system: System, galaxy: System) -> System:
        ops = {name: getattr(galaxy.decode, name) for name in names}
        return replace(system, decode=replace(system.decode, **ops))

    return apply


def _ring(system: System, galaxy: System) -> System:
    algorithms = replace(
        system.decode_algorithms,
        name="ring",
        all_gather=gather_over(Ring),
        reduce_scatter=scatter_over(Ring),
        all_reduce=gather_and_add(Ring),
    )
    fabric = replace(system.fabric, is_line=False)
    return replace(system, decode_algorithms=algorithms, fabric=fabric)


def _all_links(system: System, galaxy: System) -> System:
    fabric = replace(system.fabric, gather_links=None, scatter_links=None)
    return replace(system, fabric=fabric)


def _at_once(system: System, galaxy: System) -> System:
    system = _with_ops("output", "down", "logits")(system, galaxy)
    return replace(system, decode_algorithms=galaxy.decode_algorithms)


def _persistent(system: System, galaxy: System) -> System:
    return replace(system, is_persistent=True, fabric=replace(system.fabric, laps=1))


def _prefetcher(system: System, galaxy: System) -> System:
    # Its cores are a sub-device: attention has what is left, matmuls have the ring.
    system = _with_ops("attention")(system, galaxy)
    return replace(system, prefetch=True, fabric=replace(system.fabric, ring_matmuls=True))


def _formats(system: System, galaxy: System) -> System:
    return replace(system, formats=galaxy.formats, settings=galaxy.settings)


FORMATS = Idea("formats of the Galaxy", "formats", _formats)
"""What comes before the ideas and is none of them: they are compared in one set of formats."""

IDEAS = (
    Idea(_RING, _RING, _ring),
    Idea("all links", "all links", _all_links),
    Idea("add, norm and its gather in one op", _FUSED, _with_ops("add_norm")),
    Idea("reduce-scatter and heads in one op", _FUSED, _with_ops("qkv_heads", "norm_heads")),
    Idea("all-gather and concat in one op", _FUSED, _with_ops("merge_heads")),
    Idea("two matmuls and reduce-scatter in one", _FUSED, _with_ops("gate_up")),
    Idea("q with k, k with v in one op", _FUSED, _with_ops("rotate", "update_cache")),
    Idea("all-reduce: all blocks at once", _FUSED, _at_once),
    Idea("persistent buffers", "persistent buffers", _persistent),
    Idea("tokens are chosen on the chips", "sampling on the chips", _with_ops("sample")),
    Idea("prefetcher", "prefetcher", _prefetcher),
)
"""In the order in which they are turned on."""


@dataclass(frozen=True)
class Variant:
    """A system with some of the ideas."""

    idea: Idea | None
    """The one turned on last, or `FORMATS`; None for TT-Transformers as it is."""
    is_alone: bool
    """Whether it is the only one."""
    system: System

    @property
    def name(self) -> str:
        """What is shown."""
        return "tt_transformers" if self.idea is None else self.idea.name


def variants(mesh: Mesh) -> list[Variant]:
    """Return TT-Transformers, the same in the Galaxy's formats, and that with ideas.

    These are each idea on top of those before it, and each by itself.

    Raises
    ------
    ConfigError
        If the mesh is a single row or column, which TT-Transformers cuts in another way.
    """
    if 1 in (mesh.rows, mesh.cols):
        raise ConfigError(
            f"the ideas are compared on meshes of several rows and columns, got {mesh}; on a row "
            f"TT-Transformers cuts the model in another way: see --system tt_transformers of "
            f"decode and estimate"
        )
    plain, galaxy = system_of("tt_transformers", mesh), system_of("galaxy", mesh)
    own, plain = plain, FORMATS.apply(plain, galaxy)
    found, system = [Variant(None, False, own), Variant(FORMATS, False, plain)], plain
    for idea in IDEAS:
        system = idea.apply(system, galaxy)
        found.append(Variant(idea, False, system))
    return found + [Variant(idea, True, idea.apply(plain, galaxy)) for idea in IDEAS]
