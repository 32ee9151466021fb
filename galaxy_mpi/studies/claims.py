"""Claims of an earlier write-up of the Galaxy, next to the device model's figures.

Published measurements have since corrected that write-up. Nothing is fitted to its claims. Only its
figures were handed down to this project; its title and year are not known.
"""

from dataclasses import dataclass

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, PassShape, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator

__all__ = ["Claim", "older_claims"]

POSITION = 128
"""Of the step: the first after a prompt of 128 tokens, as in ``compare``, which has the gains."""


@dataclass(frozen=True)
class Claim:
    """One claim."""

    what: str
    claimed: str
    modelled: str


def older_claims() -> list[Claim]:
    """Return each claim that can be modelled, for Llama-70B with 32 users."""
    machine, mesh = Machine.load("wormhole_galaxy_6u"), Mesh(8, 4)
    model, precision = PRESETS["llama3-70b"], PRECISIONS["performance"]
    system = system_of("galaxy", mesh)

    galaxy = Estimator(Programs(model, mesh, system, precision, users=32), machine)
    step_s = galaxy.step([POSITION] * mesh.cols).seconds
    claims = [
        Claim("decode layer", "150 us", f"{step_s / model.n_layers * 1e6:.0f} us"),
        Claim("decode step", "12 ms", f"{step_s * 1e3:.2f} ms"),
        Claim("tokens/s", "2667", f"{32 / step_s:.0f}"),
    ]
    for n_tokens, claimed in (
        (128, "160 ms"),
        (1024, "1200 ms"),
        (2048, "2400 ms"),
        (4096, "6400 ms"),
    ):
        seconds = galaxy.prefill(PassShape.of_prompt(n_tokens)).seconds
        claims.append(Claim(f"prefill, {n_tokens} tokens", claimed, f"{seconds * 1e3:.0f} ms"))
    return claims
