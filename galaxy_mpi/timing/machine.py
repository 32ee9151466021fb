"""The constants of a machine, from a YAML profile with unit and source of each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache

from galaxy_mpi.errors import ConfigError, refuse_twice
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.timing.machine_file import (
    A_COUNT,
    COUNTS,
    TOPOLOGIES,
    Constant,
    base_of,
    is_count,
    number_of,
    overridden,
    read_file,
)

__all__ = ["Constant", "Machine"]

STATED_AT_HZ = 1e9
"""Clock at which constants of cores are stated."""

_FEW = 4
"""A machine that differs in more constants than these is another one (assumed)."""

OF_CORES_PER_S = (
    "lofi_flops_per_core_s",
    "hifi2_flops_per_core_s",
    "hifi4_flops_per_core_s",
    "vector_elements_per_core_s",
    "add_elements_per_core_s",
    "attention_bytes_per_core_s",
    "gather_bytes_per_worker_s",
    "scatter_bytes_per_worker_s",
)
OF_CORES_S = (
    "launch_s",
    "stage_s",
    "ring_core_hop_s",
    "multicast_block_s",
    "collective_s",
    "generic_collective_s",
    "generic_step_s",
    "attention_merge_s",
    "dram_round_trip_s",
    "op_gap_s",
    "sampling_gap_s",
    "plus_one_gap_s",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine profile. The unit of a constant is the end of its name; sources are in the file.

    A file may contain ``extends: NAME`` and only the constants that differ.
    """

    name: str
    mesh: str
    topology: str
    clock_hz: float
    links: float
    link_bytes_per_s: float
    link_packet_s: float
    dram_bytes: float
    dram_bytes_per_s: float
    l1_bytes: float
    worker_cores: float
    prefill_cores: float
    prefill_grid_rows: float
    ring_cores: float
    bank_cores: float
    attention_cores: float
    generic_cores: float
    circular_buffer_bytes_per_core: float
    lofi_flops_per_core_s: float
    hifi2_flops_per_core_s: float
    hifi4_flops_per_core_s: float
    vector_elements_per_core_s: float
    add_elements_per_core_s: float
    launch_s: float
    stage_s: float
    ring_core_hop_s: float
    multicast_block_s: float
    collective_s: float
    generic_collective_s: float
    generic_step_s: float
    link_hop_s: float
    dram_round_trip_s: float
    attention_bytes_per_core_s: float
    attention_dram_share: float
    attention_merge_s: float
    generic_attention_passes: float
    softmax_passes: float
    generic_softmax_passes: float
    chunk_read_bytes_per_s: float
    op_gap_s: float
    prefill_op_s: float
    prefill_efficiency: float
    prefill_weight_bytes_per_s: float
    streamed_bytes_per_s: float
    gather_bytes_per_worker_s: float
    scatter_bytes_per_worker_s: float
    generic_link_bytes_per_s: float
    host_step_s: float
    host_prompt_s: float
    host_bytes_per_s: float
    host_value_s: float
    reshard_ops: float
    typecast_passes: float
    sort_passes: float
    sampling_passes: float
    sampling_gap_s: float
    plus_one_gap_s: float

    @property
    def circular_buffer_bytes(self) -> float:
        """Bytes of the global circular buffer of a chip."""
        return self.ring_cores * self.circular_buffer_bytes_per_core

    @classmethod
    def load(cls, name: str) -> "Machine":
        """Read a profile by name, or from a file.

        Raises
        ------
        ConfigError
            If there is none, a constant is missing or unknown, or a value is not a number.
        """
        head, constants = read_file(name, _NAMES)
        values: JsonObject = {key: constant.value for key, constant in constants.items()}
        return cls.of(head, values)

    @classmethod
    def of(cls, head: JsonObject, values: dict[str, float]) -> "Machine":
        """Return a machine at its own clock, from constants given at 1 GHz.

        Rates and times of cores are scaled; those of DRAM, links and the host are not.
        """
        clock = values["clock_hz"] / STATED_AT_HZ
        scaled = {name: values[name] * clock for name in OF_CORES_PER_S}
        scaled |= {name: values[name] / clock for name in OF_CORES_S}
        everything: JsonObject = head | values | scaled
        return cls(**everything)

    def check_mesh(self, mesh: Mesh) -> None:
        """Raise if a mesh has more chips than one machine: links between two are not modelled.

        Raises
        ------
        ConfigError
            With both numbers.
        """
        own = Mesh.parse(self.mesh)
        if mesh.n_chips > own.n_chips:
            raise ConfigError(
                f"the {mesh} mesh has {mesh.n_chips} chips, machine {self.name} has {own.n_chips}; "
                f"links between machines are slower, and not modelled. Take up to {own.n_chips} "
                f"chips, --precision float32 (no device time), or a machine file with "
                f"`mesh: {mesh}`, if all its links are alike"
            )

    def published_as(self, name: str) -> tuple[str, bool]:
        """Return the machine of the published times that this one is closest to.

        Parameters
        ----------
        name : str
            The profile or file that it was loaded from, before constants were changed.

        Returns
        -------
        machine : str
            The profile of the package that it is or changes; ``name`` if it is another machine,
            because more than a few constants differ.
        is_changed : bool
            Whether any constant differs.
        """
        base = base_of(name)
        if base is None:
            return name, True
        known = Machine.load(base)
        differ = [
            field.name
            for field in fields(Machine)
            if field.name not in ("name", "mesh")
            and getattr(self, field.name) != getattr(known, field.name)
        ]
        return base if len(differ) <= _FEW else name, bool(differ)

    def with_constants(self, settings: Sequence[str]) -> "Machine":
        """Return a copy with changed constants.

        Parameters
        ----------
        settings : sequence of str
            ``machine.NAME=VALUE`` each.

        Raises
        ------
        ConfigError
            If there is no such constant, or the value is invalid.

        Examples
        --------
        >>> machine = Machine.load("wormhole_galaxy_6u")
        >>> machine.with_constants(["machine.link_bytes_per_s=6.25e9"]).link_bytes_per_s
        6250000000.0
        """
        known = [field.name for field in fields(Machine) if field.name not in ("name", "mesh")]
        values: JsonObject = {}
        refuse_twice("--set", [setting.partition("=")[0].strip() for setting in settings])
        for setting in settings:
            key, is_given, text = setting.partition("=")
            prefix, _, name = key.strip().partition(".")
            if not is_given or prefix != "machine":
                meant = f"; did you mean machine.{setting}?" if is_given and key in known else ""
                raise ConfigError(f"--set is machine.NAME=VALUE, got {setting!r}{meant}")
            if name not in known:
                near = get_close_matches(name, known, 3) or known
                raise ConfigError(f"--set: a machine has no {name!r}; choose {', '.join(near)}")
            if name == "topology":
                if text not in TOPOLOGIES:
                    raise ConfigError(f"--set {key} is {' or '.join(TOPOLOGIES)}, got {text!r}")
                values[name] = text
                continue
            number = number_of(text)
            if number is None:
                raise ConfigError(f"--set {key} needs a number above 0, got {text!r}")
            if name in COUNTS and not is_count(number):
                raise ConfigError(f"--set {key} needs {A_COUNT}, got {text!r}")
            values[name] = number
        return replace(self, **values)


_NAMES = frozenset(field.name for field in fields(Machine)) - {"name", "mesh", "topology"}
"""Constants of a profile."""


def read_constants(name: str) -> dict[str, Constant]:
    """Return the constants of a profile with their units and sources."""
    return read_file(name, _NAMES)[1]


@cache
def read_profile(name: str) -> tuple[dict[str, object], dict[str, Constant], frozenset[str]]:
    """Return name, mesh and topology of a profile, all its constants, and those it overrides."""
    head, constants = read_file(name, _NAMES)
    return head, constants, overridden(name)
