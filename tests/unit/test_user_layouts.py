"""A user's own sharding of weights."""

import pytest

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import HeadSlot, Layout, Programs
from galaxy_mpi.systems import GALAXY, PRECISIONS
from tests.unit.test_layout import SMALL


@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x4", "3x1", "8x4"])
def test_the_usual_layout_has_a_place_for_everything(mesh):
    Layout(SMALL, Mesh.parse(mesh)).check()


class Twice(Layout):
    def hidden_at(self, row):
        return super().hidden_at(0)


class Shorter(Layout):
    def dim_at(self, col):
        return super().dim_at(col)[1:]


class Outside(Layout):
    def dim_at(self, col):
        return super().dim_at(col) + 1


class OtherHeads(Layout):
    @property
    def slots(self):
        return (HeadSlot(0, (0, 5)), *super().slots[1:])


class FewSlots(Layout):
    @property
    def slots(self):
        return super().slots[1:]


class Odd(Layout):
    hidden = 35


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Twice, "Twice: feed-forward 0 has 2 places"),
        (Shorter, "Shorter: dim has parts of shape"),
        (Outside, "Outside: dim has numbers from 1 to 50, wanted 0 to 49"),
        (OtherHeads, "a slot of kv head 0 takes up to 3 of its query heads"),
        (FewSlots, "FewSlots: 3 slots; 2 rows of 2 are 4"),
        (Odd, "hidden .35. must divide by the 2 columns"),
    ],
)
def test_a_layout_that_loses_or_repeats_a_part_is_refused(layout, said):
    with pytest.raises(ConfigError, match=said):
        Programs(SMALL, Mesh(2, 2), GALAXY, PRECISIONS["float32"], users=2, layout_class=layout)
