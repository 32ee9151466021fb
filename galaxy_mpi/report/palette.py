"""Colours by meaning: of middle brightness, so that they do on dark and on light ground."""

__all__ = ["colour_of"]

_KNOWN = {
    # How a chip spends a step.
    "busy": "#3b82c4",
    "collectives": "#e08e2b",
    "waiting": "#d9485f",
    "prefetch stall": "#9a6bd0",
    "gaps": "#95a0ab",
    # What an op waits for.
    "DRAM": "#3b82c4",
    "FLOPS": "#3fa66b",
    "vector": "#49b5b1",
    "link": "#e08e2b",
    "latency": "#95a0ab",
    "dispatch": "#b5895a",
    "host": "#c06fa8",
    # Tracks of a timeline.
    "op": "#3b82c4",
    "collective column": "#d9485f",
    "collective row": "#e08e2b",
    "read": "#3fa66b",
    "circular buffer": "#3fa66b",
    "KV cache": "#49b5b1",
    "device": "#3b82c4",
    "equal": "#95a0ab",
    "measured": "#95a0ab",
    "prefill": "#e08e2b",
    "decode": "#3b82c4",
    "with a place": "#3b82c4",
    "total": "#5f6d7a",
    "free": "rgba(128, 128, 128, 0.25)",
}

_OTHERS = ("#3b82c4", "#e08e2b", "#3fa66b", "#d9485f", "#9a6bd0", "#49b5b1", "#b5895a", "#c06fa8")


def colour_of(name: str, number: int = 0) -> str:
    """Return the colour of a group, or one by its number in the chart."""
    return _KNOWN.get(name, _OTHERS[number % len(_OTHERS)])
