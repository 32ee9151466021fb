"""One estimate: what is asked, checked, and its report."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from galaxy_mpi.checkpoints import model_sizes
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import LlamaConfig, Programs
from galaxy_mpi.studies.whole_run import run_all, run_one
from galaxy_mpi.systems import PassShape, System, Wanted, system_of
from galaxy_mpi.timing import Budget, Estimator, Machine, Slowness, Trace
from galaxy_mpi.timing.op_report import op_report_csv
from galaxy_mpi.timing.replay import Events, device_trace
from galaxy_mpi.timing.summary import budget_rows, device_rows, op_table

__all__ = ["PREFILLS", "WhatIf"]

MAX_TOKENS, MAX_CHIPS = 131_072, 4096

PREFILLS = ("one", "all")


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """A run that is to be estimated.

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
    """``one``: a pass of one prompt, as times to first token are published. ``all``: the prompts
    of all users, as a run prefills them."""
    mesh: str | None = None
    machine: str = "wormhole_galaxy_6u"
    constants: tuple[str, ...] = ()
    """``machine.NAME=VALUE`` each: constants instead of the machine's."""
    links: int | None = None
    topology: str | None = None
    system: str | System = "galaxy"
    precision: str = "performance"
    optimizations: Path | None = None
    """File with the formats of each layer, instead of ``precision``."""
    formats: str | None = None
    """``TENSOR=FORMAT,...``: what is stored otherwise than by the system's own table."""
    layers: int | None = None
    prefetch: bool = True
    circular_buffer_bytes: int | None = None
    slow_chips: tuple[str, ...] = ()
    slow_links: tuple[str, ...] = ()
    allow_over_budget: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (
            ("--users", self.users, 32),
            ("--input-tokens", self.input_tokens, MAX_TOKENS),
            ("--new-tokens", self.new_tokens, MAX_TOKENS),
            ("--links", self.links, 16),
            ("--layers", self.layers, 1000),
            ("--circular-buffer-bytes", self.circular_buffer_bytes, 2**40),
        ):
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"{name} must be 1 to {most}, got {value}")
        if self.precision not in ("performance", "accuracy"):
            raise ConfigError(
                f"no precision {self.precision!r} on the device; choose performance, accuracy"
            )
        if self.topology not in (None, "ring", "line"):
            raise ConfigError(f"no topology {self.topology!r}; choose ring, line")
        if self.prefill not in PREFILLS:
            raise ConfigError(f"--prefill is {' or '.join(PREFILLS)}, got {self.prefill!r}")
        if not self.allow_over_budget:
            self.budget.check(self.emulated_machine)
        self._slowness()

    @cached_property
    def emulated_machine(self) -> Machine:
        """Whose constants count."""
        machine = Machine.load(self.machine).with_constants(self.constants)
        return replace(
            machine,
            links=self.links or machine.links,
            topology=self.topology or machine.topology,
        )

    @property
    def wanted(self) -> Wanted:
        """The formats that are asked for."""
        return Wanted(self.precision, self.optimizations, self.formats)

    @property
    def system_name(self) -> str:
        """What reports call the system."""
        return self.system.name if isinstance(self.system, System) else self.system

    @cached_property
    def programs(self) -> Programs:
        """What is charged."""
        model, mesh = self._model_sizes(), Mesh.parse(self.mesh or self.emulated_machine.mesh)
        if mesh.n_chips > MAX_CHIPS:
            raise ConfigError(
                f"the {mesh} mesh has {mesh.n_chips} chips, at most {MAX_CHIPS} can be"
            )
        system = system_of(self.system, mesh)
        return Programs(
            model,
            mesh,
            system,
            self.wanted.on(system, model),
            users=self.users,
            prefetch=self.prefetch,
        )

    @cached_property
    def estimator(self) -> Estimator:
        """The clocks."""
        return Estimator(
            self.programs,
            self.emulated_machine,
            circular_buffer_bytes=self.circular_buffer_bytes,
            slowness=self._slowness(),
        )

    @cached_property
    def budget(self) -> Budget:
        """Memory of a chip at the end of the run."""
        n_positions = self.input_tokens + self.new_tokens
        machine = self.emulated_machine
        return Budget.of(self.programs, machine, n_positions, self.circular_buffer_bytes)

    @cached_property
    def report(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        run = run_one if self.prefill == "one" else run_all
        times = run(self.estimator, self.input_tokens, self.new_tokens, self.users)
        return {
            "schema_version": 1,
            "model": self.model,
            "mesh": str(self.programs.asked_mesh),
            "machine": self.machine,
            "constants": list(self.constants),
            "system": self.system_name,
            "precision": self.programs.precision.name,
            "users": self.users,
            "input_tokens": self.input_tokens,
            "new_tokens": self.new_tokens,
            "prefill": self.prefill,
            "memory": self.budget.to_dict(),
            "device": times.to_dict(),
        }

    @cached_property
    def trace(self) -> Trace:
        """A prompt's pass and the decode step behind it."""
        events = Events()
        events.add(PassShape.of_prompt(self.input_tokens))
        events.add([self.input_tokens] * self.programs.mesh.cols)
        return device_trace(self.estimator, events)

    def op_report_csv(self) -> str:
        """Return `trace` as an op report; see `galaxy_mpi.timing.op_report`."""
        return op_report_csv(self.trace, self.emulated_machine, self.programs.decode())

    def table(self) -> str:
        """Return the figures for people."""
        figures, model = self.report["device"], self.programs.model
        rows = [
            ("model", f"{self.model}, {model.n_layers} layers, dim {model.dim}"),
            ("mesh, machine", f"{self.programs.asked_mesh}, {self.machine}"),
            ("system, precision", f"{self.system_name}, {self.programs.precision.name}"),
            ("users, tokens", f"{self.users}, {self.input_tokens} in, {self.new_tokens} new"),
            *device_rows(figures),
            *budget_rows(self.budget),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, "", *op_table(figures)])

    def _slowness(self) -> Slowness:
        asked, working = self.programs.asked_mesh, self.programs.mesh
        return Slowness.parse(self.slow_chips, self.slow_links, asked).moved(asked, working)

    def _model_sizes(self) -> LlamaConfig:
        model = model_sizes(self.model)
        return replace(model, n_layers=min(model.n_layers, self.layers or model.n_layers))
