"""One estimate: its checked settings and its report."""

from dataclasses import dataclass, replace
from functools import cached_property

from galaxy_mpi.checkpoints.model_files import model_sizes
from galaxy_mpi.config import Emulated
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.output import say_once
from galaxy_mpi.studies.asked_systems import rewired, sampled_on, system_of_machine
from galaxy_mpi.studies.prompts import chosen_passes, chunk_tokens
from galaxy_mpi.studies.what_if_checks import check_values
from galaxy_mpi.studies.what_if_table import table_of
from galaxy_mpi.studies.whole_run import run_all, run_users
from galaxy_mpi.systems import System, name_of_system, system_of
from galaxy_mpi.timing import Machine, Slowness
from galaxy_mpi.timing.bands import Conditions, bands_of
from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.op_report import op_report_csv
from galaxy_mpi.timing.replay import device_trace
from galaxy_mpi.timing.run_clock import stragglers
from galaxy_mpi.timing.times import DeviceTimes
from galaxy_mpi.timing.trace import Trace
from galaxy_mpi.timing.traced import Events

__all__ = ["WhatIf"]

MAX_CHIPS = 4096


@dataclass(frozen=True, kw_only=True)
class WhatIf(Emulated):
    """A run to estimate.

    Raises
    ------
    ConfigError
        If a value cannot be used; the message names the argument.
    """

    model: str = "llama3-70b"
    users: int = 32
    input_tokens: int = 128
    new_tokens: int = 128
    """Decode steps."""
    prefill: str = "one"
    """``one``: a single prompt, as published times to first token are measured. ``all``: the
    prompts of all users, as in a run."""
    mesh: str | None = None
    links: int | None = None
    topology: str | None = None
    system: str | System | None = None
    """None: the machine's."""
    sampling: str | None = None
    """``host`` or ``device``: where tokens are chosen; None: as the system does."""
    cached_percent: int = 0
    """Share of the prompt in the prefix cache, in whole blocks of 128 positions."""
    lengths: tuple[int, ...] | None = None
    """Prompt length of each user; replaces ``users`` and ``input_tokens``."""
    layers: int | None = None
    allow_over_budget: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        self.emulated_machine.check_mesh(self.programs.asked_mesh)
        context = self.programs.model.max_seq_len
        if self.longest > context:
            raise ConfigError(
                f"--input-tokens is {self.longest}, but {self.model} supports {context} positions"
            )
        if not self.allow_over_budget:
            self.budget.check(self.emulated_machine)
        _ = self.slowness

    @cached_property
    def emulated_machine(self) -> Machine:
        """The machine with overridden constants."""
        machine = self.load_machine()
        return replace(
            machine,
            links=self.links or machine.links,
            topology=self.topology or machine.topology,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths or (self.input_tokens,))

    @property
    def n_users(self) -> int:
        """Users of a step."""
        return len(self.lengths) if self.lengths is not None else self.users

    @property
    def n_places(self) -> int:
        """Places of a decode step: as in a run, the same number in each column."""
        if self.prefill != "all":
            return self.n_users
        asked = Mesh.parse(self.mesh or self.emulated_machine.mesh)
        cols = self.emulated_system.mesh(asked).cols
        return -(-self.users // cols) * cols

    @property
    def system_name(self) -> str:
        """The requested system, or the machine's."""
        if self.system is not None:
            return name_of_system(self.system)
        return system_of_machine(self.emulated_machine)

    @property
    def n_steps(self) -> int:
        """Decode steps: at least one, and none beyond the model's context."""
        left = self.programs.model.max_seq_len - self.longest
        return min(self.new_tokens, max(1, left))

    @cached_property
    def emulated_system(self) -> System:
        """The system with the requested links, topology and sampling."""
        mesh = Mesh.parse(self.mesh or self.emulated_machine.mesh)
        asked = self.system
        system = asked if isinstance(asked, System) else system_of(self.system_name, mesh)
        system = rewired(system, has_links=self.links is not None, has_topology=bool(self.topology))
        return system if self.sampling is None else sampled_on(system, self.sampling)

    @cached_property
    def programs(self) -> Programs:
        """The programs of the run."""
        model, mesh = model_sizes(self.model), Mesh.parse(self.mesh or self.emulated_machine.mesh)
        model = replace(model, n_layers=min(model.n_layers, self.layers or model.n_layers))
        if mesh.n_chips > MAX_CHIPS:
            raise ConfigError(f"the {mesh} mesh has {mesh.n_chips} chips; the limit is {MAX_CHIPS}")
        if note := self.wanted.note(model):
            say_once(note)
        return Programs(
            model,
            mesh,
            self.emulated_system,
            self.wanted.on(self.emulated_system, model),
            users=self.n_places,
            prefetch=self.prefetch,
            layout_class=self.layout_class,
        )

    @property
    def chunk(self) -> int | None:
        """Tokens per prefill pass; None: all of a prompt."""
        if self.system_name != "tt_transformers":
            return None
        return chunk_tokens(self.programs.model, self.programs.mesh.n_chips)

    @property
    def start(self) -> int:
        """Cached positions of a prompt."""
        shortest = min(self.lengths or (self.input_tokens,))
        return min(shortest * self.cached_percent // 100, shortest - 1) // 128 * 128

    @property
    def conditions(self) -> Conditions:
        """What error bands depend on."""
        model = self.programs.model
        machine, is_machine_changed = self.emulated_machine.published_as(self.machine)
        given = (is_machine_changed, self.layers, self.optimizations, self.formats)
        also = (self.circular_buffer_bytes, self.sampling, self.slow_chips, self.slow_links,
                self.programs.layout.key)  # fmt: skip
        changed = any(what for what in (*given, *also)) or not self.prefetch
        return Conditions(
            system=self.system_name,
            machine=machine,
            mesh=str(self.programs.asked_mesh),
            dim=model.dim,
            hidden_dim=model.hidden_dim,
            n_layers=model.n_layers,
            n_tokens=self.longest,
            is_changed=changed or self.start > 0 or self.lengths is not None,
        )

    @cached_property
    def estimator(self) -> Estimator:
        """The clocks."""
        return Estimator(
            self.programs,
            self.emulated_machine,
            circular_buffer_bytes=self.circular_buffer_bytes,
            slowness=self.slowness,
        )

    @cached_property
    def budget(self) -> Budget:
        """Memory that a chip needs at the end of the run."""
        n_positions = self.longest + self.n_steps
        machine = self.emulated_machine
        return Budget.of(self.programs, machine, n_positions, self.circular_buffer_bytes)

    @cached_property
    def report(self) -> JsonObject:
        """What ``--json`` writes."""
        times = self.times(self.estimator)
        device = times.to_dict()
        device |= bands_of(device, self.conditions)
        if self.slow_chips or self.slow_links:
            device["stragglers"] = self.stragglers
        return {
            "schema_version": 1,
            "model": self.model,
            "mesh": str(self.programs.asked_mesh),
            "machine": self.machine,
            "constants": list(self.constants),
            "system": self.system_name,
            "precision": self.programs.precision.name,
            "users": self.n_users,
            "input_tokens": self.longest,
            "cached_tokens": self.start,
            "new_tokens": self.n_steps,
            "prefill": self.prefill,
            "memory": self.budget.to_dict(),
            "device": device,
        }

    @property
    def stragglers(self) -> list[JsonObject]:
        """The chips that others wait for in the first step, see `stragglers` of `run_clock`."""
        mesh = self.programs.mesh
        return stragglers(self.estimator.step([self.longest] * mesh.cols).waits_s, mesh, 1)

    def times(self, estimator: Estimator) -> DeviceTimes:
        """Return the times of the run on the machine of an estimator."""
        if self.prefill == "all":
            return run_all(estimator, self.input_tokens, self.n_steps, self.users)
        lengths = self.lengths or (self.input_tokens,) * self.users
        return run_users(estimator, lengths, self.n_steps, start=self.start, chunk=self.chunk)

    @cached_property
    def trace(self) -> Trace:
        """A trace of the prompt's passes and the first decode step."""
        events = Events()
        for shape in chosen_passes(self.estimator, self.longest, self.start, self.chunk):
            events.add(shape)
        events.add([self.longest] * self.programs.mesh.cols)
        return device_trace(self.estimator, events)

    def op_report_csv(self) -> str:
        """Return `trace` as an op report; see `galaxy_mpi.timing.op_report`."""
        return op_report_csv(self.trace, self.emulated_machine, self.programs.decode())

    def table(self) -> str:
        """Return the figures as text."""
        return table_of(self)

    @property
    def slowness(self) -> Slowness:
        """What is slower than it should be, on the working mesh."""
        asked, working = self.programs.asked_mesh, self.programs.mesh
        return self.slowness_on(asked, working)
