"""A system as tables of op classes, one for each mode.

The Galaxy is the generic system with some entries replaced, and so is every variant of
`galaxy_mpi.compare`::

    replace(system, decode=replace(system.decode, merge_heads=FusedMergeHeads))

A new op is one file in `galaxy_mpi.systems.ops` and one field here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from galaxy_mpi.ccl.algorithms import DIRECT, Algorithms
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems.formats import FormatTable
from galaxy_mpi.systems.settings import Settings
from galaxy_mpi.systems.site import Fabric, Site

if TYPE_CHECKING:
    from galaxy_mpi.prefetch import WeightId
    from galaxy_mpi.program import Tensor
    from galaxy_mpi.systems.chip import VectorId

__all__ = ["DecodeOps", "DecodeTable", "PrefillOps", "PrefillTable", "System"]

_Op = TypeVar("_Op")

Make = Callable[[Site, str], _Op]
"""An op class, constructed from a site and a name."""

# What an op takes and returns when a model records it.
Pair: TypeAlias = "tuple[Tensor, Tensor]"
AddNorm: TypeAlias = "Callable[[Tensor, Tensor | None, VectorId], Pair]"
Norm: TypeAlias = "Callable[[Tensor, VectorId], Tensor]"
QkvHeads: TypeAlias = "Callable[[Tensor, WeightId, VectorId | None], tuple[Tensor, Tensor, Tensor]]"
NormHeads: TypeAlias = "Callable[[Tensor, Tensor, VectorId, VectorId], Pair]"
Rotate: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor], Pair]"
UpdateCache: TypeAlias = "Callable[[Tensor, Tensor], None]"
FillCache: TypeAlias = "Callable[[Tensor, Tensor], Pair]"
OfOne: TypeAlias = "Callable[[Tensor], Tensor]"
OfTwo: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
OfThree: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
Matmul: TypeAlias = "Callable[[Tensor, WeightId], Tensor]"
GateUp: TypeAlias = "Callable[[Tensor, WeightId, WeightId], Tensor]"
Logits: TypeAlias = "Callable[[Tensor, tuple[WeightId, ...]], Tensor]"
Sample: TypeAlias = "Callable[[Tensor], Pair]"


@dataclass(frozen=True, kw_only=True)
class DecodeTable:
    """The ops of a decode step."""

    add_norm: "Make[AddNorm]"
    qkv_heads: "Make[QkvHeads]"
    norm_heads: "Make[NormHeads]"
    rotate: "Make[Rotate]"
    update_cache: "Make[UpdateCache]"
    attention: "Make[OfOne]"
    merge_heads: "Make[OfOne]"
    output: "Make[Matmul]"
    """wo and its all-reduce."""
    gate_up: "Make[GateUp]"
    down: "Make[Matmul]"
    """w2 and its all-reduce."""
    logits: "Make[Logits]"
    sample: "Make[Sample]"

    def at(self, site: Site) -> "DecodeOps":
        """Return the ops of a layer."""
        return DecodeOps(
            attention_norm=self.add_norm(site, "rms_norm_attention"),
            ffn_norm=self.add_norm(site, "rms_norm_mlp"),
            final_norm=self.add_norm(site, "final_norm"),
            qkv_heads=self.qkv_heads(site, "qkv_heads"),
            norm_heads=self.norm_heads(site, "norm_heads"),
            rotate=self.rotate(site, "rotary"),
            update_cache=self.update_cache(site, "update_cache"),
            attention=self.attention(site, "attention"),
            merge_heads=self.merge_heads(site, "merge_heads"),
            output=self.output(site, "wo"),
            gate_up=self.gate_up(site, "gate_up"),
            down=self.down(site, "w2"),
            logits=self.logits(site, "lm_head"),
            sample=self.sample(site, "sample"),
        )


class DecodeOps(NamedTuple):
    """The ops of a layer of a decode step, and the ops before and after the layers."""

    attention_norm: "AddNorm"
    ffn_norm: "AddNorm"
    final_norm: "AddNorm"
    qkv_heads: "QkvHeads"
    norm_heads: "NormHeads"
    rotate: "Rotate"
    update_cache: "UpdateCache"
    attention: "OfOne"
    merge_heads: "OfOne"
    output: "Matmul"
    gate_up: "GateUp"
    down: "Matmul"
    logits: "Logits"
    sample: "Sample"


@dataclass(frozen=True, kw_only=True)
class PrefillTable:
    """The ops of a prefill pass."""

    norm: "Make[Norm]"
    """Before attention, the feed-forward and the head."""
    qkv_heads: "Make[QkvHeads]"
    norm_heads: "Make[NormHeads]"
    rotate: "Make[Rotate]"
    fill_cache: "Make[FillCache]"
    attention: "Make[OfThree]"
    output: "Make[Matmul]"
    add: "Make[OfTwo]"
    gate_up: "Make[GateUp]"
    down: "Make[Matmul]"
    last_tiles: "Make[OfOne]"
    logits: "Make[Logits]"
    all_logits: "Make[Logits]"
    sample: "Make[Sample]"

    def at(self, site: Site) -> "PrefillOps":
        """Return the ops of a layer."""
        return PrefillOps(
            attention_norm=self.norm(site, "attention_norm"),
            ffn_norm=self.norm(site, "ffn_norm"),
            final_norm=self.norm(site, "final_norm"),
            all_norm=self.norm(site, "all_norm"),
            qkv_heads=self.qkv_heads(site, "qkv_heads"),
            norm_heads=self.norm_heads(site, "norm_heads"),
            rotate=self.rotate(site, "rotary"),
            fill_cache=self.fill_cache(site, "fill_cache"),
            attention=self.attention(site, "attention"),
            output=self.output(site, "wo"),
            attention_add=self.add(site, "attention_add"),
            ffn_add=self.add(site, "ffn_add"),
            gate_up=self.gate_up(site, "gate_up"),
            down=self.down(site, "w2"),
            last_tiles=self.last_tiles(site, "last_tiles"),
            logits=self.logits(site, "lm_head"),
            all_logits=self.all_logits(site, "lm_head"),
            sample=self.sample(site, "sample"),
        )


class PrefillOps(NamedTuple):
    """The ops of a layer of a prefill pass, and the ops before and after the layers."""

    attention_norm: "Norm"
    ffn_norm: "Norm"
    final_norm: "Norm"
    all_norm: "Norm"
    """The same for every row."""
    qkv_heads: "QkvHeads"
    norm_heads: "NormHeads"
    rotate: "Rotate"
    fill_cache: "FillCache"
    attention: "OfThree"
    output: "Matmul"
    attention_add: "OfTwo"
    ffn_add: "OfTwo"
    gate_up: "GateUp"
    down: "Matmul"
    last_tiles: "OfOne"
    logits: "Logits"
    all_logits: "Logits"
    sample: "Sample"


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
        # The fabric decides it, for those who price a collective and those who bind it.
        for name in ("decode_algorithms", "prefill_algorithms"):
            algorithms = replace(getattr(self, name), skips_alone=self.fabric.skips_alone)
            object.__setattr__(self, name, algorithms)

    def mesh(self, asked: Mesh) -> Mesh:
        """Return the mesh as the system sees it; it may see N chips as N rows of one."""
        return Mesh(asked.n_chips, 1) if self.is_scattered else asked
