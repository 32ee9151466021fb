"""Device time of every chip of a mesh, one number at a time: what the product's clock must equal.

It is written plainly, as the other source for the same figures: no arrays and no shortcuts.
"""

from dataclasses import dataclass, field

from galaxy_mpi.program import Consumed, Kernel, Take


@dataclass
class Chip:
    """What is known of a chip while a program is played."""

    factor: float
    now: float = 0.0
    stall_s: float = 0.0
    dram_free_s: float = 0.0
    left_s: list = field(default_factory=list)
    n_issued: int = 0

    def end(self, end, tape, *, has_gap=True):
        self.now = end
        if has_gap:
            self.n_issued += 1
            self.now = max(end + tape.gap_s, self.n_issued * tape.issue_s)


def ticks(seconds):
    """Return seconds as a whole number of 2**-44 s."""
    return round(seconds * 2**44) / 2**44


def play_chips(tape, mesh, slowness, positions):
    """Return the chips of a mesh after a program."""
    factors = slowness.chip_factors(mesh)
    chips = [Chip(float(factors[mesh.coord(rank)])) for rank in range(mesh.n_chips)]
    attended, rooms = tape.attended_s(positions), iter(tape.rooms)
    for charge in tape.charges:
        if isinstance(charge, Kernel):
            for rank, chip in enumerate(chips):
                seconds = charge.seconds
                if callable(seconds):
                    seconds = attended[tape.numbers[id(charge)]][mesh.coord(rank)[1]]
                    chip.dram_free_s += tape.dram_s(seconds)
                chip.end(chip.now + ticks(seconds * chip.factor), tape, has_gap=charge.has_gap)
        elif isinstance(charge, Take):
            room = next(rooms)
            for chip in chips:
                begin = max(chip.dram_free_s, chip.left_s[room] if room >= 0 else 0.0)
                chip.dram_free_s = begin + ticks(
                    charge.n_bytes / tape.costs.machine.dram_bytes_per_s
                )
                stall_s = max(0.0, chip.dram_free_s - chip.now)
                chip.stall_s += stall_s
                chip.now += stall_s
                chip.left_s.append(chip.now)
        elif isinstance(charge, Consumed):
            for chip in chips:
                chip.left_s[-1] = chip.now
        else:
            ends = [
                _left_s(charge, tape, mesh, slowness, chips, rank) for rank in range(len(chips))
            ]
            for chip, end in zip(chips, ends, strict=True):
                chip.end(end, tape)
    return chips


def _left_s(cross, tape, mesh, slowness, chips, rank):
    """Return when a chip has done its part of a collective."""
    axis, machine = cross.wire.axis, tape.costs.machine
    group, me = mesh.group(rank, axis), mesh.index(rank, axis)
    hops = [abs(member - me) for member in range(len(group))]
    if machine.topology == "ring":
        hops = [min(n, len(group) - n) for n in hops]
    delays = [ticks(n * machine.link_hop_s * cross.laps) for n in hops]
    nearest = min((delay for delay in delays if delay > 0), default=0.0)
    wire = float(slowness.wire_factors(mesh, axis)[mesh.coord(rank)])
    block_s = cross.wire_s if cross.block_s is None else cross.block_s
    farthest = max(chips[m].now + d for m, d in zip(group, delays, strict=True))
    neighbours = [
        chips[m].now + d
        for m, d in zip(group, delays, strict=True)
        if len(group) == 1 or (m != rank and d <= nearest)
    ]
    data = max(farthest + ticks(block_s * wire), max(neighbours) + ticks(cross.wire_s * wire))
    chip = chips[rank]
    return max(
        data + ticks(cross.own_s * chip.factor), chip.now + ticks(cross.beside_s * chip.factor)
    )


__all__ = ["Chip", "play_chips", "ticks"]
