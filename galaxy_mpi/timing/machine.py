"""The constants of a machine, from a YAML profile with unit and source of each."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from galaxy_mpi.errors import ConfigError, MeshError
from galaxy_mpi.fields import read_bounded, shown
from galaxy_mpi.mesh import Mesh

__all__ = ["MACHINES", "Constant", "Machine"]

_FOLDER = Path(__file__).parent / "machines"

MACHINES = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
"""Names of the profiles that ship with the package."""

TOPOLOGIES = ("ring", "line")

_MOST_BYTES = 2**20

_COUNTS = ("links", "worker_cores", "prefill_cores", "ring_cores")
"""Constants that are counts, at least 1."""
STATED_AT_HZ = 1e9
"""Clock at which constants of cores are stated."""

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


@dataclass(frozen=True)
class Constant:
    """One number of a profile with its source."""

    value: float
    unit: str
    source: str
    fitted: str = ""
    """The published times that determine it; empty if it was not fitted."""
    low: float = 0.0
    """Lower end of the range that the published times allow, if it was fitted."""
    high: float = 0.0


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
        head, constants = _read(name)
        values: dict[str, Any] = {key: constant.value for key, constant in constants.items()}
        return cls.of(head, values)

    @classmethod
    def of(cls, head: dict[str, Any], values: dict[str, float]) -> "Machine":
        """Return a machine at its own clock, from constants given at 1 GHz.

        Rates and times of cores are scaled; those of DRAM, links and the host are not.
        """
        clock = values["clock_hz"] / STATED_AT_HZ
        scaled = {name: values[name] * clock for name in OF_CORES_PER_S}
        scaled |= {name: values[name] / clock for name in OF_CORES_S}
        everything: dict[str, Any] = head | values | scaled
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
        values: dict[str, Any] = {}
        for setting in settings:
            key, is_given, text = setting.partition("=")
            prefix, _, name = key.strip().partition(".")
            if not is_given or prefix != "machine":
                raise ConfigError(f"--set is machine.NAME=VALUE, got {setting!r}")
            if name not in known:
                near = get_close_matches(name, known, 3) or known
                raise ConfigError(f"--set: a machine has no {name!r}; choose {', '.join(near)}")
            if name == "topology":
                if text not in TOPOLOGIES:
                    raise ConfigError(f"--set {key} is {' or '.join(TOPOLOGIES)}, got {text!r}")
                values[name] = text
                continue
            number = _number(text)
            if number is None:
                raise ConfigError(f"--set {key} needs a number above 0, got {text!r}")
            values[name] = number
        return replace(self, **values)


def _number(value: Any) -> float | None:
    """Return a constant, None if invalid. To YAML, 125e+9 is text, because it has no point."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < 1e30 else None


def read_constants(name: str) -> dict[str, Constant]:
    """Return the constants of a profile with their units and sources."""
    return _read(name)[1]


@cache
def read_profile(name: str) -> tuple[dict[str, Any], dict[str, Constant], frozenset[str]]:
    """Return name, mesh and topology of a profile, all its constants, and those it overrides."""
    head, constants = _read(name)
    own = _read_yaml(_FOLDER / f"{name}.yaml", name)["constants"]
    return head, constants, frozenset(own)


def profile_path(name: str) -> Path:
    """Return the file of a profile of the package."""
    return _FOLDER / f"{name}.yaml"


def _read(name: str) -> tuple[dict[str, Any], dict[str, Constant]]:
    path = _FOLDER / f"{name}.yaml" if name in MACHINES else Path(name)
    profile = _read_yaml(path, name)
    base = profile.get("extends")
    if base is not None:
        if base not in MACHINES:
            raise ConfigError(f"machine {path} extends {shown(base)}; choose {', '.join(MACHINES)}")
        whole = _read_yaml(_FOLDER / f"{base}.yaml", base)
        whole_constants = whole["constants"] | profile["constants"]
        profile = whole | profile | {"constants": whole_constants}
    head = {key: str(profile.get(key, ""))[:200] for key in ("name", "mesh", "topology")}
    if head["topology"] not in TOPOLOGIES:
        raise ConfigError(
            f"machine {path}: topology is {' or '.join(TOPOLOGIES)}, got {head['topology']!r}"
        )
    try:
        Mesh.parse(head["mesh"])
    except MeshError as error:
        raise ConfigError(f"machine {path}: {error}") from None
    wanted = {field.name for field in fields(Machine)} - set(head)
    found = set(profile["constants"])
    if wanted != found:
        unknown = [shown(key) for key in profile["constants"] if key not in wanted][:8]
        raise ConfigError(
            f"machine {path}: missing {', '.join(sorted(wanted - found)) or 'nothing'}; "
            f"unknown {', '.join(unknown) or 'nothing'}"
        )
    return head, {key: _constant(path, key, value) for key, value in profile["constants"].items()}


def _read_yaml(path: Path, name: str) -> dict[str, Any]:
    import yaml  # imported here because only one rank reads profiles

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
        """Rejects aliases, because ten lines of them can make a billion values."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise ValueError(f"it has an alias (*) in line {mark.line + 1}; write it out")
            return super().compose_node(parent, index)

    try:
        profile = yaml.load(read_bounded(path, _MOST_BYTES).decode("utf-8"), Loader)
    except OSError:
        raise ConfigError(
            f"no machine {shown(name)}; choose {', '.join(MACHINES)} or name a YAML file"
        ) from None
    # The library also raises other errors, for invalid dates or keys that are lists.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = " ".join(str(error).split())[:300]
        raise ConfigError(f"machine {path} is not readable YAML: {what}") from None
    if not isinstance(profile, dict) or not isinstance(profile.get("constants"), dict):
        raise ConfigError(
            f"machine {path} has no `constants`; compare {_FOLDER / MACHINES[0]}.yaml"
        )
    return profile


def _constant(path: Path, key: str, entry: Any) -> Constant:
    given = entry if isinstance(entry, dict) else {}
    value: Any = given.get("value")
    if isinstance(value, str):
        # To YAML, 125e+9 is text, because it has no point.
        with suppress(ValueError):
            value = float(value)
    least, most = (1.0, 2.0**20) if key in _COUNTS else (0.0, 1e30)
    if type(value) not in (int, float) or not least <= value <= most or value == 0:
        wanted = f"a value from 1 to {most:.0f}" if key in _COUNTS else "a value above 0"
        raise ConfigError(f"machine {path}: {key} needs {wanted}, got {shown(value)}")
    words = {name: given.get(name, "") for name in ("unit", "source", "fitted")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ConfigError(f"machine {path}: unit, source and fitted of {key} must be text")
    if not words["unit"] or not words["source"]:
        raise ConfigError(f"machine {path}: {key} needs a unit and a source")
    bounds = given.get("range", [0.0, 0.0])
    is_pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2
    low, high = map(_bound, bounds) if is_pair else (None, None)
    if low is None or high is None:
        raise ConfigError(f"machine {path}: the range of {key} is two numbers, got {shown(bounds)}")
    return Constant(float(value), words["unit"], words["source"], words["fitted"], low, high)


def _bound(value: Any) -> float | None:
    """Return one end of a range; 0 if it was not fitted."""
    return 0.0 if type(value) in (int, float) and value == 0 else _number(value)
