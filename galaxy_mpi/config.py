"""The configuration of a run: checked arguments of a command."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from galaxy_mpi.ccl.algorithms import COLLECTIVES
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_page, check_writable
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, LlamaConfig
from galaxy_mpi.models.config import MOST_LAYERS
from galaxy_mpi.program import Choice
from galaxy_mpi.systems import Modules, System, Wanted, name_of_system, system_of

if TYPE_CHECKING:  # few ranks or runs need them
    from galaxy_mpi.timing import Machine, Slowness

__all__ = ["MAX_USERS", "MOST_BUFFER_BYTES", "Emulated", "RunConfig", "formats"]

MAX_USERS = 32
"""Users of a decode batch: the rows of a tile."""

MOST_BUFFER_BYTES = 2**40
"""Upper limit of the circular buffer."""

MOST_TOKENS = 2**20
"""Upper limit of positions, beyond any model."""

MOST_POSITIONS = 2**26
"""Upper limit of KV cache positions per column: 32 users with 2 million each."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """What is emulated, in a run as in an estimate: formats, layout, and the machine's times."""

    layout_class: type[Layout] = Layout
    """Decides which chip has which part of the weights."""
    precision: str = "performance"
    optimizations: Path | None = None
    """File with the formats of each layer; replaces ``precision``."""
    formats: str | None = None
    """``TABLE,TENSOR=FORMAT,...``: formats that differ from the system's table."""
    prefetch: bool = True
    circular_buffer_bytes: int | None = None
    machine: str = "wormhole_galaxy_6u"
    """Machine for device time: a name or a YAML file."""
    constants: tuple[str, ...] = ()
    """``machine.NAME=VALUE`` each; overrides constants of the machine."""
    slow_chips: tuple[str, ...] = ()
    """``ROW,COLUMN,FACTOR`` each: slow chips, for device time."""
    slow_links: tuple[str, ...] = ()
    """``ROW,COLUMN,row|column,FACTOR`` each: slow links, for device time."""

    @property
    def wanted(self) -> Wanted:
        """The requested formats."""
        return Wanted(self.precision, self.optimizations, self.formats)

    def load_machine(self) -> "Machine":
        """Return the machine, with overridden constants."""
        from galaxy_mpi.timing import Machine

        return Machine.load(self.machine).with_constants(self.constants)

    def slowness_on(self, asked: Mesh, working: Mesh) -> "Slowness":
        """Return slow chips and links, named on one mesh, on another with the same ranks."""
        from galaxy_mpi.timing import Slowness

        return Slowness.parse(self.slow_chips, self.slow_links, asked).moved(asked, working)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Emulated):
    """One decode run.

    Raises
    ------
    ConfigError
        If a value cannot be used; the message names the argument.
    """

    model: str = "demo"
    prompts: tuple[str, ...] | None = None
    """None: the demo model's prompts."""
    prompts_file: Path | None = None
    prompt_tokens: tuple[tuple[int, ...], ...] | None = None
    """Prompts as token ids, instead of text; for callers in Python."""
    skip_bad: bool = False
    """Whether to leave out unusable prompts instead of ending the run."""
    truncate: bool = False
    """Whether to keep only the end of a prompt that is too long."""
    max_new_tokens: int = 32
    batch: int | None = None
    """Users at a time; None: 32."""
    mesh: Mesh = field(default_factory=Mesh)
    system: str | System = "galaxy"
    """A name, or a user's System."""
    modules: Modules = field(default_factory=Modules)
    """The user's classes."""
    math_fidelity: bool = True
    """Whether matmuls use only those bits of their inputs that the chip's do."""
    sampling: SamplingParams | None = None
    """None: greedy; in chats, as in the model's ``generation_config.json``."""
    seed: int = 0
    """Seed for that case."""
    chat: bool = False
    """Whether prompts are put into the model's chat template."""
    n_layers: int | None = None
    """Use only the first layers of the model; None: all."""
    weights_cache: Path | None = None
    """Folder for packed weights; None: do not keep them."""
    page_size: int = 64
    """Positions per KV cache block."""
    cache_blocks: int = 2048
    """KV cache blocks per column."""
    prefix_caching: bool = True
    line_reduce_scatter: bool = False
    """Prefill: reduce-scatters on lines instead of rings."""
    line_all_gather: bool = False
    """Prefill: all-gathers on lines instead of direct."""
    collectives: str | None = None
    """``direct``, ``ring`` or ``line`` for all collectives; None: as in the system."""
    check: bool = False
    """Whether to check values and replicas, and overwrite memory as soon as it may be reused."""
    argv: tuple[str, ...] = ()
    """The command, for reports."""
    capture_path: Path | None = None
    """Folder for captured outputs of ops."""
    capture: Choice = field(default_factory=Choice)
    json_path: Path | None = None
    trace_path: Path | None = None
    """File for a trace in device time."""
    trace_steps: str | None = None
    """Which passes and steps traces and the op report have, ``p1,1-3``; None: the first ones."""
    host_trace_path: Path | None = None
    """File for a trace in host time."""
    profile_path: Path | None = None
    """File for an op report for tt-perf-report."""
    report_path: Path | None = None
    """File for a report page."""

    def __post_init__(self) -> None:
        system_of(self.system, self.mesh)
        if self.slow_chips or self.slow_links:
            self.slowness_on(self.mesh, self.mesh)
        given = (self.prompts, self.prompts_file, self.prompt_tokens)
        if sum(prompts is not None for prompts in given) > 1:
            raise ConfigError("give --prompt or --prompts-file, not both")
        for number, prompt in enumerate(self.prompts or ()):
            if not prompt and not self.skip_bad:
                raise ConfigError(
                    f"the prompt of user {number} is empty; a prompt needs at least one character"
                )
        if self.prompt_tokens is not None and not all(self.prompt_tokens):
            raise ConfigError("prompt_tokens has an empty prompt; each needs at least one token")
        if self.collectives is not None and self.collectives not in COLLECTIVES:
            raise ConfigError(
                f"--collectives: no {self.collectives!r}; choose {', '.join(COLLECTIVES)}"
            )
        is_float32 = self.wanted.is_float32
        if self.trace_steps is not None:
            from galaxy_mpi.timing.traced import Traced

            Traced(self.trace_steps)
        for name, value, most in (
            ("--max-new-tokens", self.max_new_tokens, MOST_TOKENS),
            ("--batch", self.batch, None),
            ("--layers", self.n_layers, MOST_LAYERS),
            ("--circular-buffer-bytes", self.circular_buffer_bytes, MOST_BUFFER_BYTES),
            ("--page-size", self.page_size, 2**16),
            ("--cache-blocks", self.cache_blocks, 2**20),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
            if value is not None and most is not None and value > most:
                raise ConfigError(f"{name} must be at most {most}, got {value}")
        n_positions = self.page_size * self.cache_blocks
        if n_positions > MOST_POSITIONS:
            raise ConfigError(
                f"--page-size {self.page_size} and --cache-blocks {self.cache_blocks} are "
                f"{n_positions} positions a column, at most {MOST_POSITIONS} can be; take fewer "
                f"blocks"
            )
        of_device = (self.trace_path, self.profile_path, *self.slow_chips, *self.slow_links)
        if is_float32 and any(of_device):
            raise ConfigError(
                "--trace, --profile-csv, --slow-chip and --slow-link need device time, which "
                "float32 does not have; choose --precision performance or accuracy"
            )
        if self.batch is not None and self.batch > MAX_USERS:
            raise ConfigError(f"--batch is at most {MAX_USERS} users, got {self.batch}")

    @property
    def emulated_system(self) -> System:
        """The system on this mesh, with the requested collectives."""
        system = system_of(self.system, self.mesh)
        lines = {"scatter": self.line_reduce_scatter, "gather": self.line_all_gather}
        decode, prefill = system.decode_algorithms, system.prefill_algorithms.with_lines(**lines)
        if self.collectives is not None:
            decode, prefill = (a.over(self.collectives) for a in (decode, prefill))
        return replace(system, decode_algorithms=decode, prefill_algorithms=prefill)

    @cached_property
    def emulated_machine(self) -> "Machine":
        """The machine, as its file was when it was first needed."""
        return self.load_machine()

    @property
    def system_name(self) -> str:
        """Name of the system in reports."""
        return name_of_system(self.system)

    @property
    def working_mesh(self) -> Mesh:
        """The mesh as the system sees it."""
        return self.emulated_system.mesh(self.mesh)

    def layout(self, model: LlamaConfig) -> Layout:
        """Return the layout of a model."""
        return self.layout_class(model, self.working_mesh, self.emulated_system.is_scattered)

    @property
    def slowness(self) -> "Slowness":
        """Slow chips and links, on the working mesh."""
        return self.slowness_on(self.mesh, self.working_mesh)

    def check_writable(self) -> None:
        """Raise ConfigError if a file could not be written at the end of the run."""
        for option, path in (
            ("--json", self.json_path),
            ("--trace", self.trace_path),
            ("--trace-host", self.host_trace_path),
            ("--profile-csv", self.profile_path),
        ):
            if path == Path("-"):
                raise ConfigError(f"{option} -: standard output has the summary; name a file")
            check_writable(option, path)
        check_page(self.report_path)


def formats(
    precision: str | None, optimizations: str | None, changes: str | None = None
) -> JsonObject:
    """Return the arguments of `RunConfig` for the given options.

    These are ``--precision``, ``--optimizations`` and ``--formats``.

    Raises
    ------
    ConfigError
        If both are given.
    """
    given: dict[str, object] = {} if changes is None else {"formats": changes}
    if optimizations is None:
        return given | {"precision": precision or "performance"}
    if precision is not None:
        raise ConfigError("give --precision or --optimizations, not both")
    if optimizations in ("performance", "accuracy"):
        return given | {"precision": optimizations}
    return given | {"optimizations": Path(optimizations)}
