"""Wrong numbers never pass in silence: shapes, finiteness, chips that should hold the same."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.errors import ValuesError
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.systems import Attention, Modules, RMSNorm
from galaxy_mpi.systems.ops.add_norm import FusedAddNorm
from galaxy_mpi.systems.ops.reduce import FusedReduce
from tests.chips.changes import RUN, play, with_decode


class OneHead(Attention):
    def decode(self, q_BNH, k_BKTH, v_BKTH, positions_B):
        return super().decode(q_BNH, k_BKTH, v_BKTH, positions_B)[:, :1]


class OneRow(Attention):
    def prefill(self, q_SNH, k_KTH, v_KTH, *, start):
        return super().prefill(q_SNH, k_KTH, v_KTH, start=start)[:1]


class Flat(RMSNorm):
    def normalise(self, x_BD, total_B, gain_D):
        return super().normalise(x_BD, total_B, gain_D)[:, :1]


class OnePosition(RotaryTable):
    def at(self, positions):
        cos, sin = super().at(positions)
        return cos[:1], sin[:1]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (Modules(attention_class=OneHead), r"attention of layer 0, chip \(0, 0\).*OneHead.decode"),
        (Modules(attention_class=OneRow), r"attention of layer 0, chip \(0, 0\).*OneRow.prefill"),
        (Modules(norm_class=Flat), r"norm of layer 0, chip \(0, 0\).*Flat.normalise"),
        (Modules(rope_class=OnePosition), r"OnePosition.at returned shape"),
    ],
)
def test_what_numpy_would_broadcast_is_refused(modules, said):
    with pytest.raises(ValuesError, match=said):
        play(RUN, modules=modules)


def test_an_op_makes_what_it_declared():
    class Short(FusedReduce):
        def bind(self, chip, x, weight):
            return super().bind(chip, x, weight)[:1]

    with pytest.raises(ValuesError, match=r"op w2 of layer 0, chip \(0, 0\): its `bind` \(Short\)"):
        play(RUN, system=with_decode(down=Short))


class Broken(FusedReduce):
    """Not finite on one chip, in the second layer."""

    def bind(self, chip, x, weight):
        out = super().bind(chip, x, weight)
        if weight.layer == 1 and chip.rank == 3:
            chip.call(out[0].fill, np.nan)
        return out


def test_the_first_value_that_is_not_finite_is_told_without_warnings():
    broken = with_decode(output=Broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValuesError, match=r"lm_head of the head, chip \(0, .\).*--check"):
            play(RUN, system=broken)
        with pytest.raises(ValuesError, match=r"op wo of layer 1, chip \(1, 1\): .*output out"):
            play(RUN, system=broken, check=True)


def test_chips_that_should_hold_the_same_are_compared():
    class Apart(FusedAddNorm):
        def bind(self, chip, x, residual, gain):
            h, stream = super().bind(chip, x, residual, gain)
            if chip.rank == 2 and gain.layer == 1:
                chip.call(np.add, stream, np.float32(1e-3), stream)
            return h, stream

    apart = with_decode(add_norm=Apart)
    play(RUN, system=apart)  # nobody looks
    said = (
        r"rms_norm_attention of layer 1: its output residual .* all rows, .*\(0, 0\) and \(1, 0\)"
    )
    with pytest.raises(ValuesError, match=said):
        play(RUN, system=apart, check=True)


def test_another_error_in_an_op_tells_where_it_was():
    def fail():
        raise ZeroDivisionError

    class Failing(FusedReduce):
        def bind(self, chip, x, weight):
            chip.call(fail)
            return super().bind(chip, x, weight)

    with pytest.raises(ZeroDivisionError) as caught:
        play(RUN, system=with_decode(down=Failing))
    notes = getattr(caught.value, "__notes__", ["op w2 of layer 0, chip (0, 0)"])  # Python 3.11
    assert "op w2 of layer 0, chip (0, 0)" in notes[0]


def test_an_error_in_a_later_step_tells_the_layer_and_the_chip():
    """From the second run on, layers share equal arguments."""
    n_calls = 0

    def fail_at_last():
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3 * 2 * 4 - 2:  # the third step, the second layer, the second chip
            raise ZeroDivisionError

    class Failing(FusedReduce):
        def bind(self, chip, x, weight):
            chip.call(fail_at_last)
            return super().bind(chip, x, weight)

    with pytest.raises(ZeroDivisionError) as caught:
        play(replace(RUN, max_new_tokens=5), system=with_decode(down=Failing))
    notes = getattr(caught.value, "__notes__", ["op w2 of layer 1, chip (0, 1)"])  # Python 3.11
    assert "op w2 of layer 1, chip (0, 1)" in notes[0]


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
@pytest.mark.parametrize("mesh", ["1x2", "2x2", "3x1"])
def test_nothing_is_said_where_all_is_right(system, mesh):
    from galaxy_mpi.mesh import Mesh

    run = {"system": system, "mesh": Mesh.parse(mesh), "precision": "performance"}

    checked = replace(RUN, **run, check=True)
    assert play(checked).tokens == play(checked, check=False).tokens
