"""Simulated traffic: its configuration, checked, and the result with its error bands."""

from dataclasses import dataclass, field, replace
from functools import cached_property

from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.serving.figures import Slo, bands, figures
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.prompts import Prompts
from galaxy_mpi.serving.service import Device, Service, Values
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.timing.bands import Band, Conditions, band
from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.times import Peaks

__all__ = ["Day", "Traffic"]

MOST_BLOCKS = 2048
"""Per column; the default of a run."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests on an emulated system.

    Parameters
    ----------
    what_if : WhatIf
        The model and the system; its ``users`` are those of a decode batch, its ``prefill``
        becomes ``all``. Its lengths are not used, and its memory check must be off, because it
        assumes users of one length.
    load : Load
    page_size : int
        Positions of a block of the KV cache.
    cache_blocks : int, optional
        Per column; by default 2048, or as many as a chip's DRAM holds.
    prefix_caching : bool
    slo : Slo
    allow_over_budget : bool

    Raises
    ------
    ConfigError
        If a value cannot be used; the message names the argument.
    """

    what_if: WhatIf
    load: Load
    page_size: int = 64
    cache_blocks: int | None = None
    prefix_caching: bool = True
    slo: Slo = field(default_factory=Slo)
    allow_over_budget: bool = False

    def __post_init__(self) -> None:
        if self.what_if.prefill != "all":
            object.__setattr__(self, "what_if", replace(self.what_if, prefill="all"))
        for name, value, most in (
            ("--page-size", self.page_size, 2**16),
            ("--cache-blocks", self.cache_blocks, 2**20),
        ):
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"{name} must be 1 to {most}, got {value}")
        for option, seconds in (
            ("--slo-ttft-ms", self.slo.ttft_s),
            ("--slo-tpot-ms", self.slo.tpot_s),
        ):
            if seconds is not None and not 0 < seconds < 1e9:
                raise ConfigError(f"{option} must be above 0, got {seconds * 1e3:g}")
        if not self.allow_over_budget:
            self._check_budget()

    @property
    def limits(self) -> CacheLimits:
        """How large the cache is."""
        return CacheLimits(
            page_size=self.page_size,
            n_blocks=self.cache_blocks or max(1, min(MOST_BLOCKS, self._fitting_blocks)),
            max_seq_len=self.what_if.programs.model.max_seq_len,
        )

    @property
    def n_places(self) -> int:
        """Places of a decode batch, a multiple of the columns."""
        return self.what_if.n_places

    @cached_property
    def device(self) -> Device:
        """Times of passes and steps."""
        estimator = self.what_if.estimator
        return Device(estimator, estimator.step_table)

    @property
    def conditions(self) -> Conditions:
        """What the bands depend on."""
        found, load = self.what_if.conditions, self.load
        context = self.what_if.programs.model.max_seq_len
        return replace(
            found,
            n_tokens=min(load.longest, context),
            is_changed=found.is_changed or not load.is_uniform,
        )

    @property
    def margins(self) -> tuple[Band, Band]:
        """Error bands of the time of a pass and of a step."""
        return band("first token", self.conditions), band("step", self.conditions)

    def service(self, device: Device | None = None, values: Values | None = None) -> Service:
        """Return a new simulation.

        Parameters
        ----------
        device : Device, optional
            Instead of its own, for the end of a band.
        values : Values, optional
            What passes and steps compute; if given, requests keep their tokens.
        """
        model, limits = self.what_if.programs.model, self.limits
        scheduler = Scheduler(
            [],
            self.n_places,
            self.what_if.programs.mesh.cols,
            limits,
            max_new_tokens=1,
            eos_tokens=(),  # lengths are those that are asked for
            prefix_caching=self.prefix_caching,
        )
        return Service(
            device or self.device,
            scheduler,
            self.load.source(limits.max_seq_len),
            Prompts(model.vocab_size, self.load.seed),
            values,
            keeps_tokens=values is not None,
        )

    def day(self) -> "Day":
        """Simulate the traffic, and again at both ends of the bands."""
        service = self.service()
        service.play()
        return self.with_bands(service)

    def with_bands(self, service: Service) -> "Day":
        """Simulate both ends of the bands of a finished simulation."""
        ends = []
        for sign in (-1, 1):
            factors = [(1 + each.margin) ** sign for each in self.margins]
            device = replace(self.device, pass_factor=factors[0], step_factor=factors[1])
            ends.append(self.service(device))
            ends[-1].play()
        return Day(self, service, *ends)

    def figures(self, service: Service) -> JsonObject:
        """Return the figures of a finished simulation."""
        peaks = Peaks.of(self.what_if.estimator.machine)
        n_blocks = self.limits.n_blocks * len(service.scheduler.pools)
        return figures(service.served, service.totals, peaks, n_blocks, self.slo)

    @cached_property
    def _budget(self) -> Budget:
        """Memory of a chip without its KV cache."""
        what_if = self.what_if
        return Budget.of(
            what_if.programs, what_if.emulated_machine, 0, what_if.circular_buffer_bytes
        )

    @property
    def _block_bytes(self) -> float:
        """Bytes of a cache block on one chip."""
        of_column = self._budget.kv_cache_bytes_per_position
        return of_column / self.what_if.programs.shape.users_each * self.page_size

    @property
    def _fitting_blocks(self) -> int:
        """Cache blocks per column that fit in a chip's DRAM."""
        left = self.what_if.emulated_machine.dram_bytes - self._budget.dram_bytes
        return int(left // self._block_bytes)

    def _check_budget(self) -> None:
        self._budget.check(self.what_if.emulated_machine)
        fitting = self._fitting_blocks
        if fitting < (self.cache_blocks or 1):
            raise ConfigError(
                f"--cache-blocks {self.cache_blocks or 1}: a chip's DRAM has room for "
                f"{max(0, fitting)} blocks besides the weights; take fewer "
                f"(--allow-over-budget continues)"
            )


@dataclass(frozen=True)
class Day:
    """The result of a simulation: as modelled, and at the ends of the error bands.

    The ends are simulations of their own, because queues amplify the device's margin: near
    saturation, a device that is 10 % slower may make requests wait ten times as long.
    """

    traffic: Traffic
    service: Service
    fast: Service
    slow: Service

    @cached_property
    def figures(self) -> JsonObject:
        """See `galaxy_mpi.serving.figures`."""
        return self.traffic.figures(self.service)

    @cached_property
    def bands(self) -> JsonObject:
        """Both ends of the band of each figure."""
        low, high = (self.traffic.figures(service) for service in (self.fast, self.slow))
        found: JsonObject = bands(low, self.figures, high)
        return found
