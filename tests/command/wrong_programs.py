"""Systems of the Galaxy with a mistake in the op after the feed-forward, by name; see the tests."""

import sys
from dataclasses import replace

import numpy as np

from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.dtypes import BFP4
from galaxy_mpi.program import Cross
from galaxy_mpi.systems import GALAXY
from galaxy_mpi.systems.ops.gate_up import FusedGateUp
from galaxy_mpi.systems.ops.merge_heads import FusedMergeHeads
from galaxy_mpi.systems.ops.reduce import FusedReduce


class Wrong(FusedReduce):
    second, skips, is_honest = "SECOND", (), False

    def wires(self):
        usual = self._sum, replace(self._sum, key=self.second or self._sum.key)
        return usual if self.is_honest else self._bound

    def bind(self, chip, x, weight):
        out = chip.array(*self._sum.sent)
        chip.matmul(self.site, x, weight, out)
        wires = [self._sum, replace(self._sum, key=self.second or self._sum.key)]
        if chip.col == 1 and weight.layer == 1 and (self.is_honest or chip.row == 0):
            wires = self.changed(wires)
        self._bound = tuple(wires)
        for wire in wires:
            reduced = chip.collective(wire)
            chip.call(lambda term, out: np.copyto(term, out[:, : term.shape[1]]), reduced.term, out)
            if not (chip.rank in self.skips and weight.layer == 1):
                reduced.cross()
        return out

    def charges(self, costs):
        for charge in FusedReduce.charges(self, costs):
            yield charge
            if isinstance(charge, Cross):
                yield charge._replace(wire=replace(charge.wire, key="SECOND"))


def system(changed, skips=(), is_honest=False):
    more = {"changed": staticmethod(changed), "skips": skips, "is_honest": is_honest}
    op = type("Changed", (Wrong,), more)
    return replace(GALAXY, name="wrong", decode=replace(GALAXY.decode, down=op))


def halved(wire):
    return replace(wire, **dict.fromkeys(("shape", "sent"), (4, 64)))


NOTHING = system(lambda wires: wires)
DTYPE = system(lambda wires: [replace(wires[0], dtype=BFP4), wires[1]])
SHAPE = system(lambda wires: [halved(wires[0]), wires[1]])
OP = system(lambda wires: [replace(wires[0], kind=Kind.ALL_GATHER), wires[1]])
ORDER = system(lambda wires: wires[::-1])
LEFT_OUT = system(lambda wires: wires[:1])
SKIPPED = system(lambda wires: wires, skips=(1,))
ALL_SKIP = system(lambda wires: wires, skips=range(4))
COLUMN = system(lambda wires: [replace(wires[0], dtype=BFP4), wires[1]], is_honest=True)
COLUMN_LEFT_OUT = system(lambda wires: wires[:1], is_honest=True)


class Charged(FusedReduce):
    charges = Wrong.charges


class Uncharged(Wrong):
    is_honest, changed = True, staticmethod(lambda wires: wires)
    charges = FusedReduce.charges


class Again(FusedReduce):
    def bind(self, chip, x, weight):
        reduced, out = chip.collective(self._sum), chip.array(*self._sum.sent)
        chip.matmul(self.site, x, weight, reduced.term)
        reduced.cross()
        reduced.cross()
        return out


class Leaves(FusedReduce):
    def bind(self, chip, x, weight):
        if chip.rank == 1:
            chip.call(sys.exit, 0)
        return super().bind(chip, x, weight)


class Raises(FusedReduce):
    def bind(self, chip, x, weight):
        chip.call(lambda: [][1])
        return super().bind(chip, x, weight)


KEPT = {}


class Keep(FusedMergeHeads):
    def bind(self, chip, mixed):
        KEPT[chip.rank] = super().bind(chip, mixed)
        return KEPT[chip.rank]


class Late(FusedGateUp):
    def bind(self, chip, h, *weights):
        rows = KEPT[chip.rank]  # of two collectives ago
        if chip.col == 1:
            chip.call(lambda h: h.__setitem__(0, h[0] + rows[: len(rows) // 2].sum()), h)
        return super().bind(chip, h, *weights)


class Narrow(FusedReduce):
    changes = (("dtype", BFP4),)

    def wires(self):
        return (replace(self._sum, **dict(self.changes)),)

    def bind(self, chip, x, weight):
        reduced = chip.collective(*self.wires())
        chip.matmul(self.site, x, weight, reduced.term)
        return reduced.cross()


class OtherLinks(Narrow):
    changes = (("links", 1),)


class Twice(Wrong):
    changed, second = staticmethod(lambda wires: wires), None
    charges = FusedReduce.charges


UNCHARGED = replace(GALAXY, name="uncharged", decode=replace(GALAXY.decode, down=Uncharged))
CHARGED = replace(GALAXY, name="charged", decode=replace(GALAXY.decode, down=Charged))
AGAIN = replace(GALAXY, name="again", decode=replace(GALAXY.decode, down=Again))
LATE = replace(GALAXY, decode=replace(GALAXY.decode, merge_heads=Keep, gate_up=Late))
RAISES = replace(GALAXY, name="raises", decode=replace(GALAXY.decode, down=Raises))
LEAVES = replace(GALAXY, name="leaves", decode=replace(GALAXY.decode, down=Leaves))
NARROW = replace(GALAXY, name="narrow", decode=replace(GALAXY.decode, down=Narrow))
LINKS = replace(GALAXY, name="links", decode=replace(GALAXY.decode, down=OtherLinks))
TWICE = replace(GALAXY, name="twice", decode=replace(GALAXY.decode, down=Twice))
