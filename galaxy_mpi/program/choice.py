"""Which values to capture: ops, layers, passes and steps (``--capture-ops`` and so on)."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.program.op import HEAD, Program, Use

__all__ = ["Choice"]

FIRST = "p1,1"
"""The first pass and the first step."""


@dataclass(frozen=True)
class Choice:
    """A choice of values.

    Parameters
    ----------
    ops : str, optional
        Comma-separated names, in which ``*`` matches anything: ``w2,qkv_heads.q``; None: all.
    layers : str, optional
        Numbers and ranges, and ``head``: ``0,4-7,head``; None: all.
    steps : str
        Numbers and ranges of decode steps, and with a leading ``p`` of prefill passes, both from 1:
        ``p1,1-3``.
    option : str
        Option that set ``steps``, for messages.

    Raises
    ------
    ConfigError
        If a text is malformed.

    Examples
    --------
    >>> choice = Choice("w2,qkv_*", "0,2-3", "p1,2")
    >>> choice.has_run("prefill", 1), choice.has_run("decode", 1), sorted(choice.layer_numbers)
    (True, False, [0, 2, 3])
    """

    ops: str | None = None
    layers: str | None = None
    steps: str = FIRST
    option: str = "--capture-steps"

    def __post_init__(self) -> None:
        _ = self.layer_numbers, self._runs("p"), self._runs("")

    @property
    def patterns(self) -> list[str]:
        """Of the names of ops."""
        return ["*"] if self.ops is None else self.ops.split(",")

    @property
    def layer_numbers(self) -> set[int]:
        """The layers; `HEAD` stands for the ops before and after them. Empty: all."""
        words = [] if self.layers is None else self.layers.split(",")
        numbers = {HEAD} if "head" in words else set[int]()
        for word in words:
            if word != "head":
                numbers |= _span("--capture-layers", word, "0,4-7,head")
        return numbers

    def has_run(self, mode: str, number: int) -> bool:
        """Return whether to capture a pass or a step."""
        return number in self._runs("p" if mode == "prefill" else "")

    def has(self, use: Use, output: str) -> bool:
        """Return whether to capture the outputs of an op."""
        layers, name = self.layer_numbers, use.op.name
        if layers and use.layer not in layers:
            return False
        return any(
            fnmatchcase(name, pattern) or fnmatchcase(f"{name}.{output}", pattern)
            for pattern in self.patterns
        )

    def check(self, *programs: Program) -> None:
        """Raise ConfigError if a pattern or layer matches no op of the programs."""
        uses = [use for program in programs for use in program.uses]
        known = sorted({use.op.name for use in uses if use.outputs})
        for pattern in self.patterns:
            one = Choice(pattern)
            if not any(one.has(use, name) for use in uses for name, _ in use.named_outputs()):
                raise ConfigError(f"no op {pattern!r} to capture; choose {', '.join(known)}")
        last = max(use.layer for use in uses)
        if self.layer_numbers and max(self.layer_numbers) > last:
            raise ConfigError(f"--capture-layers: layers are 0 to {last}, got {self.layers!r}")

    def _runs(self, letter: str) -> set[int]:
        numbers: set[int] = set()
        for word in self.steps.split(","):
            if word.startswith("p") == (letter == "p"):
                numbers |= _span(self.option, word.removeprefix("p"), "p1,1-3")
        return numbers


def _span(option: str, word: str, example: str) -> set[int]:
    first, _, last = word.partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()):
        raise ConfigError(f"{option} is numbers and ranges, as {example}; got {word!r}")
    return set(range(int(first), int(last or first) + 1))
