"""The programs of a model on a system, recorded on demand and cached.

Only this module turns sizes, mesh, formats and a system into programs. Clocks, budgets and traces
read them, engines bind them::

    programs = Programs(model, mesh, system_of("galaxy", mesh), precision, users=32)
    programs.decode().charges(costs)            # a decode step of all users
    programs.prefill(PrefillPass(...).shape)    # a pass of that shape
    programs.mesh, programs.shape, programs.layout, programs.prefetch
    programs.on(machine)                        # the machine as the system uses it

A cached program is always the same object, so derived data can be cached with it.
"""

from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

from galaxy_mpi.dtypes import TILE
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.models.decoder import Decoder
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.program import HEAD, Program
from galaxy_mpi.systems.modules import Modules
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.prefill_pass import PassShape
from galaxy_mpi.systems.site import ChipShape, Site
from galaxy_mpi.systems.table import System
from galaxy_mpi.weights import Weight, WeightId

if TYPE_CHECKING:  # only rank 0 keeps device time
    from galaxy_mpi.timing.machine import Machine

__all__ = ["MOST_KEPT", "WHOLE_HEAD", "LogitsPrograms", "Programs"]

WHOLE_HEAD = (WeightId(HEAD, Weight.LM_HEAD),)

MOST_KEPT = 16
"""Number of cached programs; the least recently used is dropped."""


class Programs:
    """Decode steps and prefill passes of one model on one system.

    Parameters
    ----------
    model : LlamaConfig
    mesh : Mesh
        As requested; the attribute ``mesh`` is the one that the system uses.
    system : System
    precision : Precision
    users : int
        Users of a decode step.
    prefetch : bool
        Whether to prefetch weights, if the system does.
    modules : Modules, optional
        The user's classes.
    head : tuple of WeightId
        Pieces of the language-model head, as stored in memory.
    layout_class : type
        Decides which chip has which part of the model.

    Raises
    ------
    ConfigError
        If a user's layout leaves out a part of the model.

    Examples
    --------
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> from galaxy_mpi.systems import PRECISIONS, system_of
    >>> mesh = Mesh(8, 4)
    >>> galaxy, precision = system_of("galaxy", mesh), PRECISIONS["performance"]
    >>> programs = Programs(PRESETS["llama3-70b"], mesh, galaxy, precision, users=32)
    >>> next(str(wire) for _, wire in programs.decode().wires() if wire.key == "WO")
    'all_reduce WO within a column, bfloat8_b (32, 2048)'
    """

    def __init__(
        self,
        model: LlamaConfig,
        mesh: Mesh,
        system: System,
        precision: Precision,
        *,
        users: int,
        prefetch: bool = True,
        modules: Modules | None = None,
        head: tuple[WeightId, ...] = WHOLE_HEAD,
        layout_class: type[Layout] = Layout,
    ) -> None:
        self.model, self.system, self.precision = model, system, precision
        self.asked_mesh, self.mesh = mesh, system.mesh(mesh)
        self.layout = layout_class(model, self.mesh, system.is_scattered)
        if layout_class is not Layout:
            self.layout.check()
        self.prefetch = prefetch and system.prefetch
        self.head = head
        self._users, self._modules = users, modules or Modules()
        self._kept: OrderedDict[tuple[object, ...], Program] = OrderedDict()

    @cached_property
    def shape(self) -> ChipShape:
        """Sizes of the model on one chip."""
        return self.layout.chip_shape(self._users)

    def of(self, system: System) -> "Programs":
        """Return the programs of the same model on another system with the same sharding."""
        return Programs(
            self.model,
            self.asked_mesh,
            system,
            self.precision,
            users=self._users,
            modules=self._modules,
            head=self.head,
            layout_class=type(self.layout),
        )

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.model.n_layers

    @property
    def is_persistent(self) -> bool:
        """Whether the device keeps the buffers of collectives between steps."""
        return self.system.is_persistent

    @property
    def embedding_bytes(self) -> int:
        """Device bytes of a chip's shard of the embedding."""
        values = self.model.vocab_size * self.shape.stream
        return values * self.precision.embedding.tile_bytes // TILE**2

    def on(self, machine: "Machine") -> "Machine":
        """Return a machine as the system uses it."""
        used: Machine = self.system.fabric.on(machine)
        return used

    def site(self, work: PassShape | None = None) -> Site:
        """Return the site of ops, in decode or in a pass."""
        return Site(
            self.mesh,
            self.shape,
            self.precision,
            self.system.fabric,
            self.prefetch and work is None,
            work,
            self._modules,
        )

    def decode(self, *, all_logits: bool = False) -> Program:
        """Return the program of a decode step; see `Decoder.decode`."""
        key = (None, all_logits)
        if key not in self._kept:
            self._keep(key, self._decoder(None).decode(all_logits=all_logits))
        return self._found(key)

    def prefill(
        self,
        work: PassShape,
        *,
        all_logits: bool = False,
        all_rows: bool = False,
        first: int = 0,
    ) -> Program:
        """Return the program of a pass of a shape; see `Decoder.prefill`."""
        key = (work, all_logits, all_rows, first)
        if key not in self._kept:
            program = self._decoder(work).prefill(
                all_logits=all_logits, all_rows=all_rows, first=first
            )
            self._keep(key, program)
        return self._found(key)

    def _decoder(self, work: PassShape | None) -> Decoder:
        return Decoder(self.model, self.system, self.site(work), self.head)

    def _keep(self, key: tuple[object, ...], program: Program) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.popitem(last=False)
        self._kept[key] = program

    def _found(self, key: tuple[object, ...]) -> Program:
        self._kept.move_to_end(key)
        return self._kept[key]


class LogitsPrograms:
    """The programs that end with logits, without the choice of a token; for device time.

    Parameters
    ----------
    programs : Programs
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.mesh, self.n_layers, self.on = programs.mesh, programs.n_layers, programs.on

    def decode(self) -> Program:
        """Return the program of a decode step."""
        return self._programs.decode(all_logits=True)

    def prefill(self, work: PassShape) -> Program:
        """Return the program of a pass of a shape."""
        return self._programs.prefill(work, all_logits=True)
