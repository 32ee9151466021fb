"""A system as tables of op classes, one for each mode.

The Galaxy is the generic system with some entries replaced, and so is every variant of
`galaxy_mpi.compare`::

    replace(system, decode=replace(system.decode, merge_heads=FusedMergeHeads))

A new op is one file in `galaxy_mpi.systems.ops` and one field here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from galaxy_mpi.ccl.algorithms import DIRECT, Algorithms
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems.formats import FormatTable
from galaxy_mpi.systems.settings import Settings
from galaxy_mpi.systems.site import Fabric, Site

__all__ = ["DecodeOps", "DecodeTable", "PrefillOps", "PrefillTable", "System"]

Make = Callable[[Site, str], Any]
"""An op class, constructed from a site and a name."""


@dataclass(frozen=True, kw_only=True)
class DecodeTable:
    """The ops of a decode step."""

    add_norm: Make
    qkv_heads: Make
    norm_heads: Make
    rotate: Make
    update_cache: Make
    attention: Make
    merge_heads: Make
    output: Make
    """wo and its all-reduce."""
    gate_up: Make
    down: Make
    """w2 and its all-reduce."""
    logits: Make
    sample: Make

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


@dataclass(frozen=True, kw_only=True)
class DecodeOps:
    """The ops of a layer of a decode step, and the ops before and after the layers."""

    attention_norm: Any
    ffn_norm: Any
    final_norm: Any
    qkv_heads: Any
    norm_heads: Any
    rotate: Any
    update_cache: Any
    attention: Any
    merge_heads: Any
    output: Any
    gate_up: Any
    down: Any
    logits: Any
    sample: Any


@dataclass(frozen=True, kw_only=True)
class PrefillTable:
    """The ops of a prefill pass."""

    norm: Make
    """Before attention, the feed-forward and the head."""
    qkv_heads: Make
    norm_heads: Make
    rotate: Make
    fill_cache: Make
    attention: Make
    output: Make
    add: Make
    gate_up: Make
    down: Make
    last_tiles: Make
    logits: Make
    all_logits: Make
    sample: Make

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


@dataclass(frozen=True, kw_only=True)
class PrefillOps:
    """The ops of a layer of a prefill pass, and the ops before and after the layers."""

    attention_norm: Any
    ffn_norm: Any
    final_norm: Any
    all_norm: Any
    """The same for every row."""
    qkv_heads: Any
    norm_heads: Any
    rotate: Any
    fill_cache: Any
    attention: Any
    output: Any
    attention_add: Any
    ffn_add: Any
    gate_up: Any
    down: Any
    last_tiles: Any
    logits: Any
    all_logits: Any
    sample: Any


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
