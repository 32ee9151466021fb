"""A new op behind the head: soft-capped logits, as Gemma 2 has them.

galaxy-mpi decode --system docs/examples/softcap.py:SYSTEM
"""

from dataclasses import replace

import numpy as np

from galaxy_mpi.mesh import Axis
from galaxy_mpi.systems import GALAXY, then
from galaxy_mpi.systems.ops.base import SystemOp

CAP = np.float32(30)


class Softcap(SystemOp):
    def __call__(self, logits):
        (out,) = self.record(logits.program, (logits,), logits=logits.shape)
        return out

    def cuts(self):  # a row has a part of the vocabulary, its columns hold the same
        return {"logits": ((), (Axis.COLUMN,))}

    def charges(self, costs):
        elements, cores = self.tiles(self.shape.device_vocab) * 1024, costs.machine.worker_cores
        yield self.elementwise(costs, self.name, elements, cores, 3)

    def bind(self, chip, logits):
        out = chip.array(*logits.shape)
        chip.call(np.divide, logits, CAP, out)
        chip.call(np.tanh, out, out)
        chip.call(np.multiply, out, CAP, out)
        chip.round(self.formats.logits, out)
        return out


SYSTEM = replace(
    GALAXY,
    name="softcap",
    decode=replace(GALAXY.decode, logits=then(GALAXY.decode.logits, Softcap)),
    prefill=replace(
        GALAXY.prefill,
        logits=then(GALAXY.prefill.logits, Softcap),
        all_logits=then(GALAXY.prefill.all_logits, Softcap),  # of every row, for `accuracy`
    ),
)
