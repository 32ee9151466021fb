"""Progress bars of a run, on standard error."""

import sys
import threading
from typing import Protocol

from galaxy_mpi.engine.hooks import Hooks
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.mesh.ending import say

__all__ = ["Counter", "FirstWords", "Progress"]

LONG_PROMPT = 1024
"""A prompt with at least this many tokens gets its own bar."""

LAYERS = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} layers [{elapsed}]"
"""No rate: layers of a mapped checkpoint pass by the hundred thousand a second."""

FIRST_WORDS_S = 1.0


class FirstWords:
    """Prints what a run is doing, if it has printed nothing else for some seconds.

    Parameters
    ----------
    text : str
    enabled : bool
    after_s : float
    """

    def __init__(self, text: str, *, enabled: bool, after_s: float = FIRST_WORDS_S) -> None:
        self._timer = threading.Timer(after_s, say, [f"{text} ...\n"])
        self._timer.daemon = True
        if enabled:
            self._timer.start()

    def cancel(self) -> None:
        """Something else was printed, or the run is over."""
        self._timer.cancel()


class _Bar(Protocol):
    """What is used of a bar of tqdm."""

    def update(self, n: int = 1) -> object:
        """Count."""

    def set_postfix_str(self, text: str, *, refresh: bool) -> object:
        """Set what is printed after the count."""

    def close(self) -> object:
        """Leave the bar as it is."""


class Progress:
    """Bars for loading, each long prompt, and the run; silent unless enabled."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._loading: _Bar | None = None
        self._prompt: _Bar | None = None
        self._run: _Bar | None = None
        self._first_words = FirstWords("reading the model", enabled=enabled)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._first_words.cancel()
        for bar in (self._loading, self._prompt, self._run):
            if bar is not None:
                bar.close()

    def hooks(self) -> Hooks:
        """Return the hooks that update the bars."""
        if not self._enabled:
            return Hooks()
        return Hooks(
            loaded_layer=self._loaded,
            refused=self._refused,
            prefilled_layer=self._prefilled,
            after_step=self._stepped,
        )

    def _bar(self, what: str, unit: str, n: int | None = None, form: str | None = None) -> _Bar:
        self._first_words.cancel()
        from tqdm import tqdm  # imported here because 31 of 32 ranks show no bar

        bar: _Bar = tqdm(desc=what, unit=unit, total=n, bar_format=form, mininterval=0.5)
        return bar

    def _loaded(self, layer: int, n_layers: int) -> None:
        if self._loading is None:
            self._loading = self._bar("loading", "layer", n_layers, LAYERS)
        self._loading.update()
        if layer == n_layers - 1:
            self._loading.close()

    def _refused(self, line: str) -> None:
        print(f"galaxy_mpi: {line}", file=sys.stderr, flush=True)

    def _prefilled(self, requests: list[Request], layer: int, n_layers: int) -> None:
        n_tokens = sum(len(request.prompt) - request.n_cached for request in requests)
        if len(requests) > 1 or n_tokens <= LONG_PROMPT:
            return
        if layer == 0:
            what = f"prefill of user {requests[0].number}, {n_tokens:,} tokens"
            self._prompt = self._bar(what, "layer", n_layers, LAYERS)
        if self._prompt is not None:
            self._prompt.update()
            if layer == n_layers - 1:
                self._prompt.close()

    def _stepped(self, step: int, scheduler: Scheduler) -> None:
        if self._run is None:
            left = scheduler.n_steps_left
            self._run = self._bar("decoding", "step", None if left is None else step + left)
        done, users = scheduler.n_done, len(scheduler.requests)
        self._run.set_postfix_str(f"{done} of {users} users done", refresh=False)
        self._run.update()


class Counter:
    """A count of something on standard error; silent unless enabled.

    Parameters
    ----------
    name, unit : str
        Of what is done, and of what is counted.
    enabled : bool
    """

    def __init__(self, name: str, unit: str, *, enabled: bool) -> None:
        self._name, self._unit, self._enabled = name, unit, enabled
        self._bar: _Bar | None = None

    def __enter__(self) -> "Counter":
        if self._enabled:
            from tqdm import tqdm  # here, not above: 31 of 32 ranks show nothing

            self._bar = tqdm(desc=self._name, unit=self._unit, mininterval=0.5)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """Count one."""
        if self._bar is not None:
            self._bar.update()
