"""The optimizations of the Galaxy, each as a change to TT-Transformers."""

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
    """The gain that an earlier write-up of the Galaxy claims for an optimization."""

    text: str
    low: float
    """Time before over time after, lower bound."""
    high: float

    def factor(self, gain: float) -> float:
        """Return the modelled gain over the nearest claimed one, both less 1: 1 within the claim.

        For example, half of the claimed gain is 0.5.
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
"""For each group of optimizations; source as in `galaxy_mpi.studies.claims`."""

CLAIMED_SIZES = (8192, 80)
"""Dim and layers of the model that the claims are about, Llama-70B."""


@dataclass(frozen=True)
class Idea:
    """One optimization."""

    name: str
    group: str
    """Of the claim about it."""
    apply: Callable[[System, System], System]
    """Returns a system with the optimization, given the system and the Galaxy."""


def _with_ops(*names: str) -> Callable[[System, System], System]:
    """Return a change that replaces ops of a decode step by the Galaxy's."""

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
    # The prefetcher occupies cores, so attention gets fewer, and matmuls run on a ring of cores.
    system = _with_ops("attention")(system, galaxy)
    return replace(system, prefetch=True, fabric=replace(system.fabric, ring_matmuls=True))


def _formats(system: System, galaxy: System) -> System:
    return replace(system, formats=galaxy.formats, settings=galaxy.settings)


FORMATS = Idea("formats of the Galaxy", "formats", _formats)
"""Applied first and not an optimization: all are compared in one set of formats."""

IDEAS = (
    Idea(_RING, _RING, _ring),
    Idea("all links", "all links", _all_links),
    Idea("fused add, norm, all-gather", _FUSED, _with_ops("add_norm")),
    Idea("fused reduce-scatter, heads", _FUSED, _with_ops("qkv_heads", "norm_heads")),
    Idea("fused all-gather, concat", _FUSED, _with_ops("merge_heads")),
    Idea("fused w1, w3, reduce-scatter", _FUSED, _with_ops("gate_up")),
    Idea("fused q + k rotary, k + v cache", _FUSED, _with_ops("rotate", "update_cache")),
    Idea("all-reduce in one step", _FUSED, _at_once),
    Idea("persistent buffers", "persistent buffers", _persistent),
    Idea("sampling on the chips", "sampling on the chips", _with_ops("sample")),
    Idea("prefetcher", "prefetcher", _prefetcher),
)
"""In the order in which they are applied."""


@dataclass(frozen=True)
class Variant:
    """A system with some of the optimizations."""

    idea: Idea | None
    """The one applied last, or `FORMATS`; None for plain TT-Transformers."""
    is_alone: bool
    """Whether it is applied without the others."""
    system: System

    @property
    def name(self) -> str:
        """Name in tables."""
        return "tt_transformers" if self.idea is None else self.idea.name


def variants(mesh: Mesh) -> list[Variant]:
    """Return TT-Transformers, the same in the Galaxy's formats, and variants with optimizations.

    These are each optimization on top of those before it, and then each by itself.

    Raises
    ------
    ConfigError
        If the mesh is a single row or column, where TT-Transformers shards differently.
    """
    if 1 in (mesh.rows, mesh.cols):
        raise ConfigError(
            f"compare needs a mesh with several rows and columns, got {mesh}; on a single row or "
            f"column TT-Transformers shards the model differently, so run decode or estimate "
            f"with --system tt_transformers"
        )
    plain, galaxy = system_of("tt_transformers", mesh), system_of("galaxy", mesh)
    own, plain = plain, FORMATS.apply(plain, galaxy)
    found, system = [Variant(None, False, own), Variant(FORMATS, False, plain)], plain
    for idea in IDEAS:
        system = idea.apply(system, galaxy)
        found.append(Variant(idea, False, system))
    return found + [Variant(idea, True, idea.apply(plain, galaxy)) for idea in IDEAS]
