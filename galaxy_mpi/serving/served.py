"""The record of each request: when it arrived, started and ended."""

from dataclasses import dataclass

from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.serving.arrivals import Size

__all__ = ["CSV_COLUMNS", "Served", "csv_row"]


@dataclass(slots=True)
class Served:
    """One request; times in seconds of device time since the start."""

    number: int
    arrival_s: float
    size: Size
    cached_tokens: int = 0
    output_tokens: int = 0
    """Generated so far, or in total."""
    place: int = -1
    column: int = -1
    start_s: float | None = None
    """Start of the prefill."""
    first_token_s: float | None = None
    end_s: float = 0.0
    ended: EndReason | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it was served completely."""
        return self.ended in (EndReason.LENGTH, EndReason.CACHE_FULL, EndReason.END_OF_TEXT)

    @property
    def queue_s(self) -> float:
        """Seconds from the arrival to the start of the prefill, or to the end without one."""
        return (self.end_s if self.start_s is None else self.start_s) - self.arrival_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from the arrival to the end of the prefill pass."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """Seconds from the arrival to the end."""
        return self.end_s - self.arrival_s


CSV_COLUMNS = (
    "request",
    "arrival_s",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "place",
    "column",
    "queue_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "ended",
)


def csv_row(one: Served) -> dict[str, object]:
    """Return a row of ``--csv``; cells without a value are empty."""
    values = (
        one.number,
        one.arrival_s,
        one.size.input_tokens,
        one.output_tokens,
        one.cached_tokens,
        one.place if one.place >= 0 else "",
        one.column if one.column >= 0 else "",
        one.queue_s,
        "" if one.ttft_s is None else one.ttft_s,
        "" if one.tpot_s is None else one.tpot_s,
        one.e2e_s,
        "" if one.ended is None else one.ended.value,
    )
    return dict(zip(CSV_COLUMNS, values, strict=True))
