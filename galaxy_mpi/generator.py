"""The model as a library, for users of tt_transformers' ``Generator``.

Every rank of a communicator makes the same calls; docs/python.md has a script. NAMES.md
maps the original's names to ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.checkpoints.tokenizer import Tokenizer, check_prompts
from galaxy_mpi.config import MAX_USERS, RunConfig, formats
from galaxy_mpi.engine.chips import Chips, load_chips
from galaxy_mpi.engine.modes import DecodeMode, MakeTap, NoClock, PrefillMode
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import Layout
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import Prefetcher
from galaxy_mpi.systems import (
    Attention,
    Modules,
    PageTable,
    PrefillPass,
    PrefillUser,
    RMSNorm,
    System,
    system_of,
)
from galaxy_mpi.timing import Costs
from galaxy_mpi.timing.run_clock import RunClock, join
from galaxy_mpi.timing.times import DeviceTimes, Peaks

__all__ = ["Continuation", "Generator", "Model", "create_model"]

PAGE_SIZE = 64


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


def create_model(
    model: str = "demo",
    *,
    mesh: str = "8x4",
    system: str | System = "galaxy",
    optimizations: str = "performance",
    max_batch_size: int = MAX_USERS,
    max_seq_len: int = 2048,
    n_layers: int | None = None,
    comm: Any = None,
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
        As ``--check``: values are looked at behind every op, chips are compared.

    Raises
    ------
    UserError
        On all ranks alike, if the model cannot be used.
    """
    if max_seq_len < 1:
        raise ConfigError(f"max_seq_len must be at least 1, got {max_seq_len}")
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


OnOp = Callable[[str, int, tuple[int, int], Mapping[str, Any]], None]
"""Gets an op's name, its layer (-1: head), the chip and the outputs by name: the very arrays that
later ops read, so who writes to them changes the run."""


@dataclass(frozen=True)
class Continuation:
    """What was generated for a prompt."""

    tokens: tuple[int, ...]
    text: str


def _taps(
    on_op: OnOp | None, on_layer: Callable[[int, tuple[int, int], F32], None] | None
) -> Iterator[MakeTap]:
    """Yield what calls the hooks."""
    if on_op is not None:

        def behind_op(chip: Any, use: Any, outputs: tuple[Any, ...]) -> None:
            names = [name for name, _ in use.named_outputs()]
            values = dict(zip(names, outputs, strict=True))
            chip.call(on_op, use.op.name, use.layer, (chip.row, chip.col), values)

        yield lambda program: behind_op
    if on_layer is not None:

        def layers(program: Any) -> Any:
            last = {use.layer: use for use in program.uses}

            def behind_layer(chip: Any, use: Any, outputs: tuple[Any, ...]) -> None:
                if use.layer >= 0 and last[use.layer] is use:
                    chip.call(on_layer, use.layer, (chip.row, chip.col), outputs[0])

            return behind_layer

        yield layers


class Generator:
    """Prefill and decode of one model, mode by mode.

    Users are numbered from 0 to ``max_batch_size - 1``; each has its own place and cache.

    Parameters
    ----------
    model : Model
    on_op : callable, optional
        Called behind every op of every chip of this process, see `OnOp`.
    on_layer : callable, optional
        Called with (layer, chip, stream) behind every layer: its output, before the residual is
        added in decode.
    """

    def __init__(
        self,
        model: Model,
        *,
        on_op: OnOp | None = None,
        on_layer: Callable[[int, tuple[int, int], F32], None] | None = None,
    ) -> None:
        self.model = model
        run, chips = model.run, model.chips
        cols = run.working_mesh.cols
        self._places_each = -(-model.max_batch_size // cols)
        self._blocks_each = model.plan.limits.blocks_for(model.max_seq_len)
        programs = Programs(
            model.plan.model,
            run.mesh,
            run.emulated_system,
            chips.precision,
            users=self._places_each * cols,
            prefetch=run.prefetch,
            modules=chips.modules,
            head=chips.head,
            layout_class=run.layout_class,
        )
        prefetcher = Prefetcher() if programs.prefetch else None
        self._programs, self._clock = programs, self._make_clock(programs)
        clock, taps = self._clock or NoClock(), list(_taps(on_op, on_layer))
        self._decode = DecodeMode(chips, programs, prefetcher, clock, taps)
        self._prefill = PrefillMode(chips, programs, clock, taps)
        self.mode: str | None = None

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.leave_mode()

    def switch_mode(self, mode: Literal["prefill", "decode"]) -> None:
        """Go over to a mode; the programs of both are kept, so it costs nothing.

        Raises
        ------
        ConfigError
            If there is no such mode.
        """
        if mode not in ("prefill", "decode"):
            raise ConfigError(f"no mode {mode!r}; choose prefill, decode")
        self.mode = mode

    def leave_mode(self) -> None:
        """Free what the programs hold."""
        self._decode.free()
        self._prefill.free()
        self.mode = None

    def prefill_forward(
        self, tokens: Sequence[Sequence[int]], users: Sequence[int] | None = None
    ) -> F32:
        """Prefill prompts, one after the other, and return the logits of their last tokens.

        Parameters
        ----------
        tokens : sequence of sequence of int
            Token ids of each prompt.
        users : sequence of int, optional
            Whose prompts they are; 0, 1, ... by default.

        Returns
        -------
        ndarray of shape (len(tokens), V), float32
            Equal on all ranks.
        """
        users = range(len(tokens)) if users is None else users
        if len(users) != len(tokens):
            raise ConfigError(f"{len(tokens)} prompts, but {len(users)} users")
        work = [self._pass(prompt, user) for prompt, user in zip(tokens, users, strict=True)]
        self._check_same("prompts", [[int(t) for t in prompt] for prompt in tokens])
        self.switch_mode("prefill")
        found = []
        for number, one in enumerate(work):
            self.model.transport.begin(f"prefill of prompt {number}")
            ready = self._prefill.run(one, all_logits=True)
            if self._clock is not None and ready.clocks is not None:
                self._clock.end_prefill(ready.clocks, [number])
            found.append(self._whole(ready.results("logits")))
        n_tokens = self.model.plan.model.vocab_size
        return np.concatenate(found) if found else np.zeros((0, n_tokens), np.float32)

    def prepare_decode_inputs(
        self, tokens: Sequence[int] | Ints, positions: Sequence[int] | Ints
    ) -> tuple[Ints, dict[int, PageTable]]:
        """Lay out a step's tokens.

        Parameters
        ----------
        tokens, positions : sequence of int
            Each user's new token and its position, -1 for a user that sits this step out; users
            behind the last are idle.

        Returns
        -------
        tokens_B, tables
            What `decode_forward` takes: tokens by place, and the page tables of this process's
            columns.
        """
        model = self.model
        if len(tokens) != len(positions) or len(tokens) > model.max_batch_size:
            raise ConfigError(
                f"{len(tokens)} tokens and {len(positions)} positions for at most "
                f"{model.max_batch_size} users; give one of each a user"
            )
        highest = max((int(position) for position in positions), default=-1)
        if highest >= model.max_seq_len:
            raise ConfigError(
                f"position {highest} is behind the last of {model.max_seq_len}; "
                f"raise max_seq_len of create_model"
            )
        cols = model.run.working_mesh.cols
        tokens_B = np.zeros(self._places_each * cols, np.int64)
        positions_B = np.full(self._places_each * cols, -1, np.int64)
        tokens_B[: len(tokens)] = tokens
        positions_B[: len(positions)] = positions
        return tokens_B, {col: self._table(col, positions_B) for col in model.chips.columns}

    def decode_forward(self, tokens_B: Ints, tables: dict[int, PageTable]) -> F32:
        """Run a step prepared by `prepare_decode_inputs`.

        Returns
        -------
        ndarray of shape (max_batch_size, V), float32
            Logits of every user, idle ones included; equal on all ranks.
        """
        self._check_same("tokens of a step", tokens_B.tolist())
        self.switch_mode("decode")
        self.model.transport.begin("decode step")
        longest = [-1] * self.model.run.working_mesh.cols
        for column, table in tables.items():
            longest[column] = int(table.positions_B.max())
        ready = self._decode.run(tokens_B, tables, longest, all_logits=True)
        if self._clock is not None and ready.clocks is not None:
            self._clock.end_step(ready.clocks, int((tokens_B >= 0).sum()))
        return self._whole(ready.results("logits"))[: self.model.max_batch_size]

    def generate(
        self, prompts: Sequence[str | Sequence[int]], max_new_tokens: int = 32
    ) -> list[Continuation]:
        """Continue prompts, each token the likeliest, until each text ends or is long enough.

        Parameters
        ----------
        prompts : sequence of str or of sequence of int
            Texts or token ids, at most ``max_batch_size``.
        max_new_tokens : int

        Returns
        -------
        list of Continuation
            One a prompt; equal on all ranks.
        """
        model, ends = self.model, self.model.plan.model.eos_tokens
        if len(prompts) > model.max_batch_size:
            raise ConfigError(
                f"{len(prompts)} prompts for {model.max_batch_size} users; raise max_batch_size of "
                f"create_model"
            )
        ids = [model.encode(p) if isinstance(p, str) else list(p) for p in prompts]
        made: list[list[int]] = [[] for _ in ids]
        open_users = set(range(len(ids)))
        logits = self.prefill_forward(ids)
        while open_users:
            for user, token in enumerate(logits.argmax(axis=1)[: len(ids)].tolist()):
                if user in open_users:
                    made[user].append(token)
                    n_positions = len(ids[user]) + len(made[user])
                    is_full = len(made[user]) >= max_new_tokens or n_positions > model.max_seq_len
                    if token in ends or is_full:
                        open_users.discard(user)
            if open_users:
                last = [tokens[-1] for tokens in made]
                places = [
                    len(ids[user]) + len(made[user]) - 1 if user in open_users else -1
                    for user in range(len(ids))
                ]
                logits = self.decode_forward(*self.prepare_decode_inputs(last, places))
        return [Continuation(tuple(tokens), model.decode(tokens)) for tokens in made]

    def device_times(self) -> dict[str, Any] | None:
        """Return device time of all that was run, as ``device`` of a report. Collective.

        Without the choice of a token, which is the caller's here.

        Returns
        -------
        dict or None
            On rank 0; None elsewhere, and for formats that the device does not have.
        """
        machine = self.model.plan.machine
        if self._clock is None or machine is None:
            return None
        ranks = self.model.transport.gather(self._clock.times)
        if ranks is None:
            return None
        times = DeviceTimes(self._programs.n_layers, Peaks.of(machine))
        return join([chip for rank in ranks for chip in rank], times).to_dict()

    def _make_clock(self, programs: Programs) -> RunClock | None:
        model = self.model
        if model.plan.machine is None:
            return None
        costs = Costs(programs.on(model.plan.machine))
        mesh, chips = model.run.working_mesh, model.transport.chips
        return RunClock(costs, mesh, chips, model.run.slowness)

    def _check_same(self, what: str, mine: list[Any]) -> None:
        """Raise ConfigError if rank 0 was given something else: messages would still fit."""
        transport = self.model.transport
        theirs = transport.from_root(lambda: mine)
        if theirs != mine:
            raise ConfigError(
                f"the {what} of rank {transport.rank} differ from those of rank 0: "
                f"{str(mine)[:60]}, not {str(theirs)[:60]}; give all ranks the same"
            )

    def _table(self, column: int, positions_B: Ints) -> PageTable:
        """Return where the users of a column are."""
        here = range(column * self._places_each, (column + 1) * self._places_each)
        blocks = np.stack([self._blocks(user) for user in here])
        return PageTable(positions_B[here.start : here.stop], blocks, PAGE_SIZE)

    def _pass(self, prompt: Sequence[int], user: int) -> PrefillPass:
        model = self.model
        if not 0 <= user < model.max_batch_size:
            raise ConfigError(f"user {user} is outside 0 to {model.max_batch_size - 1}")
        if not 1 <= len(prompt) <= model.max_seq_len:
            raise ConfigError(
                f"the prompt of user {user} has {len(prompt)} tokens; 1 to {model.max_seq_len} "
                f"can be prefilled (max_seq_len of create_model)"
            )
        column = user // self._places_each
        tokens = np.array([int(token) for token in prompt], np.int64)
        return PrefillPass((PrefillUser(tokens, 0, column, self._blocks(user)),))

    def _blocks(self, user: int) -> Ints:
        """Return a user's cache blocks in its column: always the same ones."""
        place = user % self._places_each
        return np.arange(place * self._blocks_each, (place + 1) * self._blocks_each)

    def _whole(self, slices: Sequence[F32]) -> F32:
        """Lay the rows' slices of the vocabulary side by side: (R, B, V/R) to (B, V)."""
        whole = slices[0].swapaxes(0, 1).reshape(slices[0].shape[1], -1)
        # A copy: the next program overwrites what this one gave.
        return whole[:, : self.model.plan.model.vocab_size].copy()
