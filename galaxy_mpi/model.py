"""A model on the ranks of a communicator, or in one process: what `Generator` runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from galaxy_mpi.checkpoints.tokenizer import Tokenizer, check_prompts
from galaxy_mpi.config import MAX_USERS, MOST_TOKENS, RunConfig, formats
from galaxy_mpi.engine.chips import Chips, load_chips
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import Layout
from galaxy_mpi.script_input import named_for_scripts
from galaxy_mpi.systems import Attention, Modules, RMSNorm, System, system_of

__all__ = ["PAGE_SIZE", "Model", "create_model"]

PAGE_SIZE = 64
"""Positions of a KV cache block."""


@dataclass(frozen=True)
class Model:
    """A model on the ranks of a communicator, as one of them sees it."""

    run: RunConfig
    plan: Plan
    tokenizer: Tokenizer
    chips: Chips
    transport: Transport
    max_seq_len: int

    @property
    def max_batch_size(self) -> int:
        """Maximum number of users."""
        return self.run.batch or MAX_USERS

    @named_for_scripts()
    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        check_prompts([text], self.plan.model.max_seq_len)
        return self.tokenizer.encode(text, 0)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode([int(token) for token in tokens])

    def close(self) -> None:
        """Free the communicators. Collective: every rank calls it."""
        self.transport.free()


@named_for_scripts()
def create_model(
    model: str = "demo",
    *,
    mesh: str = "8x4",
    system: str | System = "galaxy",
    optimizations: str = "performance",
    max_batch_size: int = MAX_USERS,
    max_seq_len: int = 2048,
    n_layers: int | None = None,
    comm: object = None,
    chips_per_rank: int = 1,
    attention_class: type[Attention] = Attention,
    rope_class: type[RotaryTable] = RotaryTable,
    norm_class: type[RMSNorm] = RMSNorm,
    layout_class: type[Layout] = Layout,
    machine: str = "wormhole_galaxy_6u",
    constants: Sequence[str] = (),
    check: bool = False,
) -> Model:
    """Open a model and load this process's shards. Collective: every rank calls it alike.

    Without a communicator, this process plays all chips.

    Parameters
    ----------
    model : str
        As ``--model`` of galaxy-mpi decode.
    mesh : str
        ``RxC``; the communicator has as many ranks, or fewer (``chips_per_rank``).
    system : str or System
        ``galaxy``, ``tt_transformers`` or your own, made with ``replace(GALAXY, ...)``.
    optimizations : str
        ``performance``, ``accuracy``, ``float32`` or a JSON file
        (`galaxy_mpi.systems.optimizations`).
    max_batch_size, max_seq_len : int
        Users, and positions of each, that there is room for.
    n_layers : int, optional
        Only the first so many layers.
    comm : mpi4py.MPI.Comm, optional
        Duplicated. None: no MPI.
    chips_per_rank : int
        Chips that each rank plays.
    attention_class, rope_class, norm_class : type
        Parts of one's own (`galaxy_mpi.systems.modules`, `galaxy_mpi.kernels.RotaryTable`).
    layout_class : type
        Who has which part of the weights, if not as `galaxy_mpi.models.Layout` says.
    machine : str
        Whose constants device time is computed with.
    constants : sequence of str
        As ``--set``: ``machine.links=2``.
    check : bool
        As ``--check``: the output of every op is checked, chips are compared.

    Raises
    ------
    UserError
        On all ranks alike, if the model cannot be used.
    """
    if not 1 <= max_seq_len <= MOST_TOKENS:
        raise ConfigError(f"max_seq_len must be 1 to {MOST_TOKENS}, got {max_seq_len}")
    is_exact = optimizations == "float32"
    chosen = formats("float32", None) if is_exact else formats(None, optimizations)
    asked = Mesh.parse(mesh)
    cols = system_of(system, asked).mesh(asked).cols
    run = RunConfig(
        model=model,
        mesh=asked,
        system=system,
        batch=max_batch_size,
        n_layers=n_layers,
        prompt_tokens=((0,),),
        page_size=PAGE_SIZE,
        cache_blocks=-(-max_batch_size // cols) * -(-max_seq_len // PAGE_SIZE),
        modules=Modules(attention_class, norm_class, rope_class),
        layout_class=layout_class,
        machine=machine,
        constants=tuple(constants),
        check=check,
        **chosen,
    )
    transport: Transport
    if comm is None:
        transport = LocalTransport(run.working_mesh)
    else:
        # Here, not above: importing this module must not start MPI.
        from galaxy_mpi.mesh.mpi import MpiTransport

        transport = MpiTransport(run.working_mesh, comm, chips_per_rank=chips_per_rank)
    plan, tokenizer = transport.from_root(lambda: make_plan(run))
    longest = min(max_seq_len, plan.model.max_seq_len)
    chips = load_chips(run, plan, transport, n_tokens=longest)
    return Model(run, plan, tokenizer, chips, transport, longest)
