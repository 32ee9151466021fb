"""Which values to capture: ops, layers, passes and steps (``--capture-ops`` and so on)."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.program.op import HEAD, Program, Use

__all__ = ["Choice"]

FIRST = "p1,1"
"""The first pass and the first step."""

_MOST_DIGITS = 9
"""Of a number: more than any layer or step has."""


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
    >>> choice.has_run("prefill", 1), choice.has_run("decode", 1), choice.layer_spans
    (True, False, [range(0, 1), range(2, 4)])
    """

    ops: str | None = None
    layers: str | None = None
    steps: str = FIRST
    option: str = "--capture-steps"

    def __post_init__(self) -> None:
        _ = self.layer_spans, self._runs("p"), self._runs("")

    @property
    def patterns(self) -> list[str]:
        """Of the names of ops."""
        return ["*"] if self.ops is None else self.ops.split(",")

    @property
    def layer_spans(self) -> list[range]:
        """The layers; `HEAD` stands for the ops before and after them. Empty: all."""
        words = [] if self.layers is None else self.layers.split(",")
        return [
            range(HEAD, HEAD + 1)
            if word == "head"
            else _span("--capture-layers", word, "0,4-7,head", 0)
            for word in words
        ]

    def has_run(self, mode: str, number: int) -> bool:
        """Return whether to capture a pass or a step."""
        return any(number in span for span in self._runs("p" if mode == "prefill" else ""))

    def names_any(self, n_passes: int, n_steps: int) -> bool:
        """Return whether it names one of so many passes and steps."""
        passes, steps = self._runs("p"), self._runs("")
        return any(span.start <= n_passes for span in passes) or any(
            span.start <= n_steps for span in steps
        )

    def has(self, use: Use, output: str) -> bool:
        """Return whether to capture the outputs of an op."""
        layers, name = self.layer_spans, use.op.name
        if layers and not any(use.layer in span for span in layers):
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
        if any(span.stop - 1 > last for span in self.layer_spans):
            raise ConfigError(f"--capture-layers: layers are 0 to {last}, got {self.layers!r}")

    def _runs(self, letter: str) -> list[range]:
        return [
            _span(self.option, word.removeprefix("p"), "p1,1-3", 1)
            for word in self.steps.split(",")
            if word.startswith("p") == (letter == "p")
        ]


def _span(option: str, word: str, example: str, least: int) -> range:
    """Return the numbers of a number or a range, the smallest of which may be ``least``."""
    first, dash, last = word.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isdecimal() and len(end) <= _MOST_DIGITS for end in ends):
        raise ConfigError(f"{option} is numbers and ranges, as {example}; got {word[:80]!r}")
    low, high = map(int, ends)
    if not least <= low <= high:
        raise ConfigError(
            f"{option} counts from {least}, and a range from its smaller number; got {word!r}"
        )
    return range(low, high + 1)
