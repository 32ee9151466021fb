"""Which formats are tried: by tensor group, each with the fidelity that the originals pair with it.

A candidate is a setting for each layer (`galaxy_mpi.systems.settings.Setting`). What is tried of
each group is in the order from the most bits to the fewest, so the first candidate of a grid has
the most bits everywhere.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``ModelOptimizations``: bfp4 with LoFi,
   bfp8 with HiFi2; bf16 weights with HiFi4, and attention that reads a bf16 cache too.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import shown
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.systems.formats import FORMAT_NAMES
from galaxy_mpi.systems.optimizations import TENSOR_GROUPS
from galaxy_mpi.systems.settings import DEFAULT, ModelSizes, Setting, Settings

__all__ = ["Candidate", "Grid", "groups_of", "named_candidates", "named_formats", "setting_of"]

Groups = tuple[tuple[str, str], ...]
"""A format's name for each tensor group: what a layer has."""

_MOST_BITS_FIRST = ("bf16", "mixed", "bfp8", "bfp4")

_OPS_OF_GROUP = {
    "ff1_3": ("li_ff1_3",),
    "ff2": ("li_ff2",),
    "wqkv": ("li_qkv_decode", "li_qkv_prefill"),
    "wo": ("li_o_decode", "li_o_prefill"),
}

_FIDELITY = {"bf16": Fidelity.HIFI4, "bfp8": Fidelity.HIFI2, "bfp4": Fidelity.LOFI}

_TRIED = {
    "ff1_3": ("bf16", "bfp8", "bfp4"),
    "ff2": ("bf16", "bfp8", "bfp4"),
    "wqkv": ("bf16", "bfp8", "bfp4"),
    "wo": ("bf16", "bfp8", "bfp4"),
    "kv_cache": ("bf16", "bfp8"),
    "activation": ("bf16", "mixed"),
}
"""Unless something else is asked for: all that the originals' own files use, and bfp4 everywhere.
``mixed``: each tensor as the system's table says."""


@dataclass(frozen=True)
class Candidate:
    """The formats of each layer."""

    layers: tuple[Groups, ...]

    @classmethod
    def uniform(cls, groups: Groups, n_layers: int) -> "Candidate":
        """Return the candidate with the same formats in every layer."""
        return cls((groups,) * n_layers)

    @property
    def settings(self) -> list[Setting]:
        """Return a setting for each layer."""
        made = {groups: setting_of(dict(groups)) for groups in set(self.layers)}
        return [made[groups] for groups in self.layers]

    def but(self, layer: int, group: str, name: str) -> "Candidate":
        """Return the candidate with one group of one layer changed."""
        changed = tuple((g, name if g == group else other) for g, other in self.layers[layer])
        return Candidate((*self.layers[:layer], changed, *self.layers[layer + 1 :]))


def setting_of(names: dict[str, str]) -> Setting:
    """Return the setting of a format's name for each tensor group.

    Examples
    --------
    >>> setting = setting_of({"ff1_3": "bfp4", "wo": "bf16"})
    >>> setting.formats["ff1_3"].name, setting.fidelities["li_ff1_3"].name
    ('bfloat4_b', 'LOFI')
    >>> setting.fidelities["li_o_decode"].name, setting.fidelities["li_qkv_decode"].name
    ('HIFI4', 'HIFI2')
    """
    formats = {group: FORMAT_NAMES.get(name) for group, name in names.items()}
    fidelities = {
        op: _FIDELITY[names[group]]
        for group, ops in _OPS_OF_GROUP.items()
        if group in names
        for op in ops
    }
    if names.get("kv_cache") == "bf16":
        fidelities |= dict.fromkeys(("sdpa_decode", "sdpa_prefill"), Fidelity.HIFI4)
    return DEFAULT.but(formats, fidelities)


def named_formats(candidate: Candidate) -> dict[str, str | list[str]]:
    """Return the format of each tensor group; where layers differ, a list with that of each.

    Examples
    --------
    >>> one = (("ff1_3", "bfp4"), ("wo", "bf16"))
    >>> named_formats(Candidate((one, one)).but(1, "wo", "bfp8"))
    {'ff1_3': 'bfp4', 'wo': ['bf16', 'bfp8']}
    """
    found: dict[str, str | list[str]] = {}
    for place, (group, _) in enumerate(candidate.layers[0]):
        names = [layer[place][1] for layer in candidate.layers]
        found[group] = names[0] if len(set(names)) == 1 else names
    return found


def groups_of(setting: Setting) -> Groups:
    """Return the names of what a setting has, the inverse of `setting_of`.

    Raises
    ------
    KeyError
        If it has a format without a name.
    """
    names = {dtype: name for name, dtype in FORMAT_NAMES.items()} | {None: "mixed"}
    return tuple((group, names[setting.formats[group]]) for group in TENSOR_GROUPS)


@dataclass(frozen=True)
class Grid:
    """What is tried of each tensor group."""

    tried: tuple[tuple[str, tuple[str, ...]], ...]
    n_layers: int

    @classmethod
    def parse(cls, asked: Sequence[str], n_layers: int) -> "Grid":
        """Return the grid of ``GROUP=FORMAT,FORMAT`` for each group that is asked for.

        Raises
        ------
        ConfigError
            If there is no such group or format; the message lists what there is.
        """
        tried = dict(_TRIED)
        for text in asked:
            group, _, names = text.partition("=")
            if group not in TENSOR_GROUPS:
                raise ConfigError(
                    f"--try: no tensor group {shown(group)}; choose {', '.join(TENSOR_GROUPS)}"
                )
            known = [*FORMAT_NAMES, *(["mixed"] if group == "activation" else [])]
            given = names.split(",")
            for name in given:
                if name not in known:
                    raise ConfigError(
                        f"--try: {group} cannot be {shown(name)}; choose {', '.join(known)}"
                    )
            tried[group] = tuple(n for n in _MOST_BITS_FIRST if n in given)
        return cls(tuple((group, tried[group]) for group in TENSOR_GROUPS), n_layers)

    @property
    def most_bits(self) -> Candidate:
        """The candidate with the most bits everywhere."""
        return self._uniform(names[0] for _, names in self.tried)

    @property
    def fewest_bits(self) -> Candidate:
        """The candidate with the fewest bits everywhere."""
        return self._uniform(names[-1] for _, names in self.tried)

    def candidates(self) -> Iterator[Candidate]:
        """Yield all combinations, uniform over the layers."""
        for names in itertools.product(*(names for _, names in self.tried)):
            yield self._uniform(names)

    def changes(self) -> Iterator[tuple[str, str]]:
        """Yield (group, format) of all that differs from `most_bits` in one group."""
        for group, names in self.tried:
            for name in names[1:]:
                yield group, name

    def with_change(self, group: str, name: str) -> Candidate:
        """Return `most_bits` with one group changed in every layer."""
        return self._uniform(name if g == group else names[0] for g, names in self.tried)

    def _uniform(self, names: "Iterator[str] | Sequence[str]") -> Candidate:
        groups = tuple(zip((group for group, _ in self.tried), names, strict=True))
        return Candidate.uniform(groups, self.n_layers)


def named_candidates(settings: Settings, model: ModelSizes, n_layers: int) -> dict[Candidate, str]:
    """Return the candidates that are what a system means by ``performance`` and ``accuracy``."""
    found: dict[Candidate, str] = {}
    for name in ("performance", "accuracy"):
        groups = groups_of(settings.choice(name, model).setting)
        found.setdefault(Candidate.uniform(groups, n_layers), name)
    return found
