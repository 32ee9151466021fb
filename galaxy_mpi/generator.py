"""The model as a library, for users of tt_transformers' ``Generator``.

Every rank of a communicator makes the same calls; docs/python.md has a script. NAMES.md
maps the original's names to ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.engine.parts import make_clock, make_modes, make_programs
from galaxy_mpi.engine.taps import OnOp, hook_taps
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.model import PAGE_SIZE, Model, create_model
from galaxy_mpi.models.programs import LogitsPrograms
from galaxy_mpi.script_input import named_for_scripts, refuse_difference, token_ids
from galaxy_mpi.systems import PageTable, PrefillPass, PrefillUser

__all__ = ["Continuation", "Generator", "Model", "create_model"]

_Given = TypeVar("_Given")


@dataclass(frozen=True)
class Continuation:
    """What was generated for a prompt."""

    tokens: tuple[int, ...]
    text: str


class Generator:
    """Prefill and decode of one model, mode by mode.

    Users are numbered from 0 to ``max_batch_size - 1``; each has its own place and cache.

    Parameters
    ----------
    model : Model
    on_op : callable, optional
        Called after every op of every chip of this process, see `OnOp`.
    on_layer : callable, optional
        Called with (layer, chip, stream) after every layer: its output, before the residual is
        added in decode.
    """

    @named_for_scripts()
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
        programs = make_programs(run, model.plan.model, chips)
        taps = list(hook_taps(on_op, on_layer))
        self._clock = make_clock(run, model.plan, LogitsPrograms(programs), model.transport)
        self._decode, self._prefill = make_modes(
            chips, programs, self._clock, decode_taps=taps, prefill_taps=taps
        )
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

    @named_for_scripts()
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
        prompts = [[int(t) for t in prompt] for prompt in tokens]
        self._check_same({"prompts": prompts, "users": list(users)})
        self.switch_mode("prefill")
        found = []
        for number, one in enumerate(work):
            self.model.transport.begin(f"prefill of prompt {number}")
            ready = self._prefill.run(one, all_logits=True)
            if self._clock is not None:
                self._clock.prefill(one.shape, [number])
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
            after the last are idle.

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
        if min(positions, default=-1) < -1:
            raise ConfigError(f"position {min(positions)}; give -1 to a user that sits out")
        highest = max((int(position) for position in positions), default=-1)
        if highest >= model.max_seq_len:
            raise ConfigError(
                f"position {highest} is beyond the last, {model.max_seq_len - 1}; "
                f"raise max_seq_len of create_model"
            )
        cols = model.run.working_mesh.cols
        tokens_B = np.zeros(self._places_each * cols, np.int64)
        positions_B = np.full(self._places_each * cols, -1, np.int64)
        active = [position >= 0 for position in positions]
        token_ids(np.asarray(tokens)[active], model.plan.model.vocab_size)
        tokens_B[: len(tokens)] = tokens
        positions_B[: len(positions)] = positions
        return tokens_B, {col: self._table(col, positions_B) for col in model.chips.columns}

    @named_for_scripts()
    def decode_forward(self, tokens_B: Ints, tables: dict[int, PageTable]) -> F32:
        """Run a step prepared by `prepare_decode_inputs`.

        Returns
        -------
        ndarray of shape (max_batch_size, V), float32
            Logits of every user, idle ones included; equal on all ranks.
        """
        given = {f"positions of column {c}": t.positions_B.tolist() for c, t in tables.items()}
        known = self._check_same({"tokens of a step": tokens_B.tolist(), **given})
        self.switch_mode("decode")
        self.model.transport.begin("decode step")
        ready = self._decode.run(tokens_B, tables, all_logits=True)
        if self._clock is not None:
            of_columns = [
                known[f"positions of column {c}"] for c in range(self.model.run.working_mesh.cols)
            ]
            longest = [max(positions) for positions in of_columns]
            users = [user for user, at in enumerate(chain(*of_columns)) if at >= 0]
            self._clock.step(longest, users)
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
        if isinstance(prompts, str):
            raise ConfigError(f"prompts is one text; give a list: [{prompts[:40]!r}]")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if len(prompts) > model.max_batch_size:
            raise ConfigError(
                f"{len(prompts)} prompts for {model.max_batch_size} users; raise max_batch_size of "
                f"create_model, or call generate in parts"
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

    def device_times(self) -> JsonObject | None:
        """Return device time of all that was run, as ``device`` of a report.

        Without the choice of a token, which is the caller's here.

        Returns
        -------
        dict or None
            On rank 0; None elsewhere, and for formats that the device does not have.
        """
        return None if self._clock is None else self._clock.times.to_dict()

    def _check_same(self, mine: dict[str, _Given]) -> dict[str, _Given]:
        """Raise ConfigError on all ranks if one was given something else; messages would fit.

        Returns
        -------
        dict
            What all ranks were given, on rank 0; elsewhere ``mine``.
        """
        transport = self.model.transport
        of_all = transport.gather(mine)
        transport.from_root(lambda: refuse_difference(of_all or []))
        return mine if of_all is None else {what: v for one in of_all for what, v in one.items()}

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
        tokens = token_ids(prompt, model.plan.model.vocab_size)
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
