"""Where block floats lose most: channels so large that the rest of their block has few bits left.

Sixteen adjacent values share the exponent of the largest. bfp8 has seven bits for that one; a value
2**n times smaller has n bits fewer. A block is therefore rated by its largest value relative to its
median.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import BFP8, FACE
from galaxy_mpi.json_values import JsonObject

__all__ = ["TABLE_HEAD", "Outlier", "outliers"]

TABLE_HEAD = "tensor    layer  channel    x median  rest is off by  share of all error"
"""Over rows of `Outlier.to_text`: the channel against its block of 16 values, in bfp8."""


@dataclass(frozen=True)
class Outlier:
    """A block of a tensor with its largest channel."""

    tensor: str
    """``stream`` after a layer, ``attention`` before wo, ``act`` before w2."""
    layer: int
    channel: int
    ratio: float
    """Largest over median absolute value of the block, averaged over positions."""
    share: float
    """This block's share of the tensor's squared error in bfp8."""
    error: float
    """Error of the other channels of the block in bfp8, relative to their own size."""

    def to_dict(self) -> JsonObject:
        """Return the figures of the report."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a row below `TABLE_HEAD`."""
        return (
            f"{self.tensor:<10}{self.layer:>5}{self.channel:>9}{self.ratio:>12.0f}"
            f"{self.error:>16.1%}{self.share:>20.1%}"
        )


def outliers(tensors: Mapping[str, Sequence[F32]], n_most: int = 5) -> list[Outlier]:
    """Return the blocks of each tensor that lose most, worst first.

    Parameters
    ----------
    tensors : mapping of str to sequence of ndarray of shape (T, W)
        Values of each layer.
    n_most : int
        Number of blocks per tensor, each of another layer.
    """
    found = []
    for name, layers in tensors.items():
        worst = sorted(
            (
                max(_blocks(name, number, values), key=_ratio)
                for number, values in enumerate(layers)
            ),
            key=_ratio,
            reverse=True,
        )
        found += worst[:n_most]
    return found


def _ratio(outlier: Outlier) -> float:
    return outlier.ratio


def _blocks(name: str, layer: int, values_TW: F32) -> Iterator[Outlier]:
    """Yield the loss of each complete block of a tensor."""
    n = len(values_TW)
    wide = values_TW[:, : values_TW.shape[1] // FACE * FACE]
    rounded = BFP8.round(np.ascontiguousarray(wide))
    values, errors = (x.reshape(n, -1, FACE).astype(np.float64) for x in (wide, rounded - wide))
    size = np.abs(values)
    median = np.maximum(np.median(size, axis=2), np.finfo(np.float32).tiny)
    ratios = (size.max(axis=2) / median).mean(axis=0)
    channels = size.mean(axis=0).argmax(axis=1)
    of_blocks = (errors**2).sum(axis=(0, 2))
    whole = max(float(of_blocks.sum()), np.finfo(np.float64).tiny)
    for block, channel in enumerate(channels.tolist()):
        others = np.arange(FACE) != channel
        signal = float((values[:, block, others] ** 2).sum())
        lost = float((errors[:, block, others] ** 2).sum())
        yield Outlier(
            name,
            layer,
            block * FACE + channel,
            float(ratios[block]),
            float(of_blocks[block]) / whole,
            (lost / signal) ** 0.5 if signal else 0.0,
        )
