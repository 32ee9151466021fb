"""A system as tables of op classes, one for each mode.

The Galaxy is the generic system with some entries replaced, and so is every variant of
`galaxy_mpi.compare`::

    replace(system, decode=replace(system.decode, merge_heads=FusedMergeHeads))

A new op is one file in `galaxy_mpi.systems.ops` and one field of a table: an entry replaced, or an
entry with the new op behind it (`then`).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from galaxy_mpi.ccl.algorithms import DIRECT, Algorithms
from galaxy_mpi.errors import ConfigError, ProgramError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems.formats import FormatTable
from galaxy_mpi.systems.settings import Settings
from galaxy_mpi.systems.site import Fabric, Site
from galaxy_mpi.weights import Vector, Weight, WeightId

if TYPE_CHECKING:
    from galaxy_mpi.program import Tensor

__all__ = ["DecodeTable", "OpsAt", "PrefillTable", "System", "then"]

_Op = TypeVar("_Op")
_Place = ParamSpec("_Place")

# What an op takes and returns when a model records it.
Pair: TypeAlias = "tuple[Tensor, Tensor]"
Triple: TypeAlias = "tuple[Tensor, Tensor, Tensor]"
AddNorm: TypeAlias = "Callable[[Tensor, Tensor | None], Pair]"
UpdateCache: TypeAlias = "Callable[[Tensor, Tensor], None]"
OfOne: TypeAlias = "Callable[[Tensor], Tensor]"
OfTwo: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
PairOfTwo: TypeAlias = "Callable[[Tensor, Tensor], Pair]"
OfThree: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
Rotate: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor], Pair]"
Logits: TypeAlias = "Callable[[Tensor, tuple[WeightId, ...]], Tensor]"

Make: TypeAlias = "Callable[[Site], _Op]"
"""An op class, constructed from a site."""


class MakeNorm(Protocol):
    """A class of norms of prefill; see `galaxy_mpi.systems.ops.prefill_norm.PrefillNorm`."""

    def __call__(self, site: Site, gain: Vector, *, all_rows: bool = False) -> "OfOne":
        """Return the op."""


class OpsAt:
    """Makes the ops of a site, each only once, because layers of equal formats share them.

    Parameters
    ----------
    site : Site

    Examples
    --------
    ``at(table.output, Weight.WO)(mixed)`` records a use of the op that a table has for wo.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self._made: dict[object, Any] = {}

    def __call__(
        self,
        make: "Callable[Concatenate[Site, _Place], _Op]",
        *place: _Place.args,
        **more: _Place.kwargs,
    ) -> _Op:
        """Return the op of an entry of a table.

        Parameters
        ----------
        make : callable
            The entry.
        *place, **more
            What the entry is told besides the site: which norm it is, or which weight it has.
        """
        key = (make, place, *more.items())
        if key not in self._made:
            _check_fits(make, (self.site, *place), more)
            self._made[key] = make(self.site, *place, **more)
        made: _Op = self._made[key]
        return made


def _check_fits(make: Callable[..., Any], place: tuple[object, ...], more: object) -> None:
    """Raise if an entry of a table cannot be constructed for its place.

    Raises
    ------
    ProgramError
    """
    try:
        inspect.signature(make).bind(*place, **cast(dict[str, object], more))
    except TypeError as error:
        told = ", ".join(["site", *map(str, place[1:])])
        name = getattr(make, "__name__", str(make))
        raise ProgramError(
            f"{name} is in the wrong field of a system's table, or should be behind the op of that "
            f"field (`then`): it cannot be made of ({told}): {error}"
        ) from None


def then(first: Callable[..., Any], *more: Callable[[Site], Any]) -> Callable[..., Any]:
    """Return an entry of a table: an op with others behind it.

    Parameters
    ----------
    first : op class
        Of the entry.
    *more : op class
        Each is called with what the one before returned.

    Raises
    ------
    ConfigError
        If one of them is no class.

    Examples
    --------
    ``replace(GALAXY.decode, down=then(FusedReduce, Scale))`` adds the op ``Scale`` behind w2.
    """
    for each in (first, *more):
        if not callable(each):
            raise ConfigError(f"then: {each!r} is no op class")

    def make(site: Site, *place: object, **named: object) -> Callable[..., Any]:
        ops = [first(site, *place, **named), *(each(site) for each in more)]

        def record(*inputs: object) -> object:
            results: object = inputs
            for op in ops:
                results = op(*(results if isinstance(results, tuple) else (results,)))
            return results

        return record

    return make


@dataclass(frozen=True, kw_only=True)
class DecodeTable:
    """The ops of a decode step."""

    add_norm: "Callable[[Site, Vector], AddNorm]"
    """Before attention, the feed-forward and the head."""
    qkv_heads: "Make[Callable[[Tensor], Triple]]"
    norm_heads: "Make[PairOfTwo]"
    rotate: "Make[Rotate]"
    update_cache: "Make[UpdateCache]"
    attention: "Make[OfOne]"
    merge_heads: "Make[OfOne]"
    output: "Callable[[Site, Weight], OfOne]"
    """wo and its all-reduce."""
    gate_up: "Make[OfOne]"
    down: "Callable[[Site, Weight], OfOne]"
    """w2 and its all-reduce."""
    logits: "Make[Logits]"
    sample: "Make[Callable[[Tensor], Pair]]"


@dataclass(frozen=True, kw_only=True)
class PrefillTable:
    """The ops of a prefill pass."""

    norm: MakeNorm
    """Before attention, the feed-forward and the head."""
    qkv_heads: "Make[Callable[[Tensor], Triple]]"
    norm_heads: "Make[PairOfTwo]"
    rotate: "Make[Rotate]"
    fill_cache: "Make[PairOfTwo]"
    attention: "Make[OfThree]"
    output: "Callable[[Site, Weight], OfOne]"
    add: "Callable[[Site, Weight], OfTwo]"
    gate_up: "Make[OfOne]"
    down: "Callable[[Site, Weight], OfOne]"
    last_tiles: "Make[OfOne]"
    logits: "Make[Logits]"
    all_logits: "Make[Logits]"
    sample: "Make[Callable[[Tensor], Pair]]"


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to run a model, chosen once at the beginning."""

    name: str
    decode: DecodeTable
    prefill: PrefillTable
    formats: FormatTable
    """Format of every tensor."""
    settings: Settings
    """What ``performance`` and ``accuracy`` mean."""
    other_formats: tuple[FormatTable, ...] = ()
    """Alternative tables, by name."""
    fabric: Fabric = field(default_factory=Fabric)
    decode_algorithms: Algorithms = DIRECT
    """How the collectives of a decode step run on the host."""
    prefill_algorithms: Algorithms = DIRECT
    is_persistent: bool = True
    """Whether the device keeps buffers between steps, or allocates them per collective."""
    prefetch: bool = True
    """Whether weights of a decode step pass through the prefetcher."""
    is_scattered: bool = False
    """Whether the residual stream stays sharded over all chips, which are one row or column."""

    def __post_init__(self) -> None:
        for name, kind in (("decode", DecodeTable), ("prefill", PrefillTable)):
            found = type(getattr(self, name))
            if found is not kind:
                raise ConfigError(f"System.{name} is a {found.__name__}, not a {kind.__name__}")
        # The fabric decides it, for those who price a collective and those who bind it.
        for name in ("decode_algorithms", "prefill_algorithms"):
            algorithms = replace(getattr(self, name), skips_alone=self.fabric.skips_alone)
            object.__setattr__(self, name, algorithms)

    def mesh(self, asked: Mesh) -> Mesh:
        """Return the mesh as the system sees it; it may see N chips as N rows of one."""
        return Mesh(asked.n_chips, 1) if self.is_scattered else asked
