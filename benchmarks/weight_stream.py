"""One chip's products with a layer and the head of Llama-70B on 8x4, with both codecs in turns.

    python benchmarks/weight_stream.py [--turns N]

32 users, the Galaxy's formats, weights unpacked and multiplied piece by piece. The codecs take
turns; every figure is the least processor time of all turns, so other programs disturb it little.
32 chips on 2 cores take 16 times as long.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from galaxy_mpi.dtypes import BFP4, BFP8, BlockFloat, DType, PackedTensor
from galaxy_mpi.dtypes.choice import codecs_named
from galaxy_mpi.kernels import TopK, chosen_product
from galaxy_mpi.prefetch import WeightStream
from galaxy_mpi.systems.workspace import Workspace
from galaxy_mpi.weights import Weight, WeightId

USERS = 32
SHAPES = {
    Weight.WQKV: (2048, 1280, BFP8),
    Weight.WO: (1024, 2048, BFP8),
    Weight.W1: (2048, 3584, BFP4),
    Weight.W3: (2048, 3584, BFP4),
    Weight.W2: (3584, 2048, BFP8),
    Weight.LM_HEAD: (2048, 16_032, BFP8),
}


class Program:
    """The calls that a chip would run, with the codecs of one name."""

    def __init__(self, codecs: str) -> None:
        chosen = codecs_named(codecs)
        self._formats = {
            dtype.name: BlockFloat(dtype.name, bits, chosen)
            for dtype, bits in ((BFP8, 7), (BFP4, 3))
        }
        self.workspace, self.calls = Workspace(), list[tuple[Callable[..., Any], Any]]()

    def codec(self, dtype: DType, shape: tuple[int, ...]) -> Any:
        return self._formats.get(dtype.name, dtype).codec(shape)

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append((function, arguments))

    def seconds(self) -> float:
        began = time.thread_time()
        for function, arguments in self.calls:
            function(*arguments)
        return time.thread_time() - began


def programs(codecs: str, packed: dict[Weight, PackedTensor]) -> dict[str, Program]:
    """Return the programs of a layer, and of the head with the choice of the best tokens."""
    stream = WeightStream({WeightId(0, n): t for n, t in packed.items()}, chosen_product(), 1)
    layer, head = Program(codecs), Program(codecs)
    rng = np.random.default_rng(0)
    for weight, tensor in packed.items():
        x = BFP8.round(rng.standard_normal((USERS, tensor.shape[0])).astype(np.float32))
        out = np.empty((USERS, tensor.shape[1]), np.float32)
        chip = head if weight is Weight.LM_HEAD else layer
        stream.multiply(chip, WeightId(0, weight), x, out)
    best = np.empty((USERS, 32), np.float32), np.empty((USERS, 32), np.int64)
    head.call(TopK(out, *best).find_best)
    return {"a layer": layer, "head and top-k": head}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    packed = {
        weight: PackedTensor.of(rng.standard_normal((rows, width)).astype(np.float32), dtype)
        for weight, (rows, width, dtype) in SHAPES.items()
    }
    made = {codecs: programs(codecs, packed) for codecs in ("compiled", "numpy")}
    least = {(c, part): np.inf for c, parts in made.items() for part in parts}
    for _ in range(arguments.turns):
        for codecs, parts in made.items():
            for part, program in parts.items():
                least[codecs, part] = min(least[codecs, part], program.seconds())
    for part in made["numpy"]:
        ours, theirs = least["compiled", part], least["numpy", part]
        print(
            f"{part}: compiled {ours * 1e3:.1f} ms, numpy {theirs * 1e3:.1f} ms, "
            f"{ours / theirs:.2f} of it"
        )


if __name__ == "__main__":
    main()
