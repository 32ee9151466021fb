"""The context of an op: sizes of the model on a chip, formats of its layer, mesh, links."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.systems.modules import Modules
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.prefill_pass import PassShape
from galaxy_mpi.weights import Weight

if TYPE_CHECKING:
    from galaxy_mpi.timing import Machine

__all__ = ["SAMPLED", "ChipShape", "Fabric", "Site"]

SAMPLED = 32
"""Candidate tokens that each row contributes to sampling: one tile."""


class ChipShape(NamedTuple):
    """Sizes of a model on one chip of a mesh, and of the batch; made by `Layout.chip_shape`."""

    users: int
    """All users of a step: rows of the activations."""
    users_each: int
    """Users per column."""
    dim: int
    """D / C: rows of wqkv, w1 and w3."""
    stream: int
    """Width of the residual stream on a chip: D / C, or D / N if it stays sharded over N chips."""
    model_dim: int
    """Full D without padding, which the norm divides by."""
    norm_eps: float
    heads: int
    """Query heads, N / R, including padding."""
    kv_heads: int
    """K / R."""
    head_dim: int
    hidden: int
    """F / R."""
    vocab: int
    """V / R: columns of the language-model head."""
    n_columns: int
    """C: F / R is sharded once more over these."""
    has_qk_norm: bool = False
    """Whether heads of q and k are normalised. Then adds are separate ops (tt-metal,
    llama3_70b_galaxy, ``unfuse_res_add``)."""
    has_qkv_bias: bool = False

    @property
    def qkv(self) -> int:
        """(N + 2 K) H / R: columns of wqkv."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def mixed(self) -> int:
        """N H / R: width of the attention output, rows of wo."""
        return self.heads * self.head_dim

    @property
    def hidden_shard(self) -> int:
        """F / (R C)."""
        return self.hidden // self.n_columns

    @property
    def device_vocab(self) -> int:
        """V / R padded as on the device: whole tiles on each of 32 cores (tt-metal, lm_head.py)."""
        return padded(self.vocab, 1024)

    @property
    def matrices(self) -> dict[Weight, tuple[int, int]]:
        """Rows and columns of each matmul weight on a chip, (in, out)."""
        return {
            Weight.WQKV: (self.dim, self.qkv),
            Weight.WO: (self.mixed, self.dim),
            Weight.W1: (self.dim, self.hidden),
            Weight.W3: (self.dim, self.hidden),
            Weight.W2: (self.hidden, self.dim),
            Weight.LM_HEAD: (self.dim, self.device_vocab),
        }


@dataclass(frozen=True)
class Fabric:
    """How a system uses the links and cores of a machine."""

    is_line: bool = False
    """Whether groups are lines even if the machine has rings."""
    gather_links: float | None = None
    """Links that an all-gather uses; None: all."""
    scatter_links: float | None = None
    """Links that a reduce-scatter uses; None: all."""
    laps: int = 1
    """2 if buffers are allocated per call, because a barrier precedes the data."""
    skips_alone: bool = False
    """Whether a group of one chip skips collectives."""
    workers: int = 1
    """Cores that feed a link in prefill (``num_workers_per_link``)."""
    ring_matmuls: bool = True
    """Whether matmuls of decode run on the ring cores, or on those next to the DRAM banks."""

    def on(self, machine: "Machine") -> "Machine":
        """Return the machine as the system uses it."""
        return replace(machine, topology="line") if self.is_line else machine


class Site(NamedTuple):
    """All that an op's shapes, formats and charges depend on."""

    mesh: Mesh
    shape: ChipShape
    precision: Precision
    """Precision of the op's layer."""
    fabric: Fabric = Fabric()
    prefetch: bool = True
    """Whether weights of a decode step pass through the circular buffer."""
    work: PassShape | None = None
    """Shape of the prefill pass; None in decode."""
    modules: Modules = Modules()

    @property
    def mode(self) -> str:
        """``decode`` or ``prefill``."""
        return "decode" if self.work is None else "prefill"

    def of(self, precision: Precision) -> "Site":
        """Return the same site with another precision."""
        return self._replace(precision=precision)

    def size(self, axis: Axis) -> int:
        """Return the members of a group along ``axis``."""
        return self.mesh.size(axis)
