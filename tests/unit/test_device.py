"""The device model: constants, costs and clocks against sums done by hand."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from galaxy_mpi.device import MACHINES, Collective, Costs, Machine, MeshClock
from galaxy_mpi.device.machine import read_constants
from galaxy_mpi.device.published import CALIBRATION, read_measurements
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Axis, Mesh

GALAXY = Machine.load("wormhole_galaxy_6u")
COSTS = Costs(GALAXY)
BFP8, BFP4 = 1088, 576


def profile(tmp_path, change):
    """Return the path of the Galaxy's profile with something changed."""
    name = f"{CALIBRATION.parent.parent}/machines/wormhole_galaxy_6u.yaml"
    with open(name, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    change(content)
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", MACHINES)
def test_every_constant_says_its_unit_and_where_it_is_from(name):
    published = {m.name for m in read_measurements(CALIBRATION)}
    published |= {"decode step at 4096 tokens", "prefill of 128 tokens", "prefill of 4096 tokens"}
    published |= {"decode_layer_gaps_us per_layer over 16 ops"}
    for key, constant in read_constants(name).items():
        assert constant.unit, key
        assert constant.source, key
        for what in filter(None, constant.fitted.split(", ")):
            assert what in published, f"{key} is fitted to {what}"


def test_a_profile_from_a_file_is_taken_as_it_is(tmp_path):
    path = profile(tmp_path, lambda c: c["constants"]["links"].update(value=3))
    assert Machine.load(path).links == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["constants"].pop("links"), "missing links; unknown nothing"),
        (lambda c: c["constants"].update(speed={"value": 1}), "unknown 'speed'"),
        (
            lambda c: c["constants"]["links"].update(value="four"),
            "links needs a value from 1 to 1048576",
        ),
        (lambda c: c["constants"]["links"].update(value=-1), "links needs a value .* got -1"),
        (lambda c: c["constants"]["launch_s"].update(value=0), "launch_s needs a value above 0"),
        (lambda c: c["constants"].update({7: {"value": 1}}), "unknown 7"),
        (lambda c: c["constants"].update(launch_s=[1]), "launch_s needs a value above 0, got None"),
        (lambda c: c["constants"]["links"].update(unit=[1]), "unit, source and fitted of links"),
        (lambda c: c.update(mesh="eight"), "a mesh is written ROWSxCOLUMNS"),
        (lambda c: c.update(extends=["n150"]), "extends \\['n150'\\]; choose n150"),
        (lambda c: c["constants"]["links"].pop("source"), "links needs a unit and a source"),
        (lambda c: c.update(topology="torus"), "topology is ring or line, got 'torus'"),
        (lambda c: c.pop("constants"), "has no `constants`"),
    ],
)
def test_a_broken_profile_is_refused_with_what_is_wrong(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Machine.load(profile(tmp_path, change))


@pytest.mark.parametrize("text", ["125e+9", "1.25e11", "125000000000"])
def test_floats_are_read_as_people_write_them(tmp_path, text):
    path = Path(profile(tmp_path, lambda c: None))
    content = path.read_text()
    assert "value: 12500000000.0" in content
    path.write_text(content.replace("value: 12500000000.0", f"value: {text}"))
    assert Machine.load(str(path)).link_bytes_per_s == 125e9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "it has an alias .* in line 2; write it out"),
        ("a: 2001-99-99\n", "not readable YAML"),
        ("? [1, 2]\n: 3\n", "not readable YAML"),
        ("a: " + "[" * 5000, "not readable YAML"),
        ("a: 0x" + "f" * 9000, "has no `constants`"),
        ("x" * 2**21, "larger than 1 MiB"),
        ("\x00", "not readable YAML"),
    ],
)
def test_text_that_is_no_profile_is_one_line(tmp_path, text, said):
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Machine.load(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_unknown_machine_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no machine 'tpu'; choose n150, n300, t3000"):
        Machine.load("tpu")


def test_bytes_of_a_layer_are_those_of_the_published_layout():
    """Llama-70B on 8x4, padded to the banks: 3.34 + 2.51 + 4.42 + 4.42 + 8.77 MB."""
    weights = [
        (2048, 1280, BFP8, 3.34),
        (1024, 2048, BFP8, 2.51),
        (2048, 3584, BFP4, 4.42),
        (2048, 3584, BFP4, 4.42),
        (3584, 2048, BFP8, 8.77),
    ]
    for k, n, tile_bytes, megabytes in weights:
        assert COSTS.weight_bytes(k, n, tile_bytes) / 1e6 == pytest.approx(megabytes, abs=0.006)


def test_a_matmul_on_the_ring_pays_for_its_padding():
    """1024 rows of a weight are 32 tiles: 24 cores take two each, as if there were 48."""
    peak = 2e12
    arithmetic_s = 2 * 32 * (48 * 32) * (72 * 32) / (24 * peak)
    overhead_s = GALAXY.launch_s + 24 * GALAXY.ring_core_hop_s
    assert COSTS.ring_matmul_s(32, 1024, 2048, peak) == pytest.approx(overhead_s + arithmetic_s)
    assert COSTS.ring_matmul_s(1, 1024, 2048, peak) == COSTS.ring_matmul_s(32, 1536, 2304, peak)


def test_a_matmul_from_dram_takes_its_bytes_or_its_arithmetic():
    reading_s = 2048 * 16384 / 1024 * BFP8 / GALAXY.dram_bytes_per_s
    few = COSTS.dram_matmul_s(32, 2048, 16384, BFP8, 2e12)
    assert few == pytest.approx(GALAXY.launch_s + reading_s)
    many = COSTS.dram_matmul_s(4096, 2048, 16384, BFP8, 2e12)
    assert many == pytest.approx(GALAXY.launch_s + 2 * 4096 * 2048 * 16384 / (50 * 2e12))


def test_the_busiest_wire_of_rings_and_lines():
    """Counted block by block: on a ring each goes the shorter way (half and half at the middle)."""
    for size in (2, 3, 4, 8):
        ring = np.zeros((size, 2))
        line = np.zeros((size, 2))
        for source in range(size):
            for target in range(size):
                ahead = (target - source) % size
                ways = [(0, ahead)] if 2 * ahead < size else [(1, size - ahead)]
                share = 1.0
                if 2 * ahead == size:
                    ways, share = [(0, ahead), (1, ahead)], 0.5
                for way, steps in ways:
                    if steps:
                        last = (target - (1 if way == 0 else -1)) % size
                        ring[last, way] += share  # what crosses the wire into the target
                if source != target:
                    line[target, int(source > target)] += 1
        wire_s = 1 / (4 * GALAXY.link_bytes_per_s)
        assert COSTS.wire_s(size, 1, 4) == pytest.approx(ring.sum(axis=1).max() / 2 * wire_s)
    from dataclasses import replace

    slow = Costs(replace(GALAXY, topology="line"))
    assert slow.wire_s(4, 1, 4) == pytest.approx(3 * wire_s)


def test_a_collective_waits_for_the_farthest_and_the_latest():
    clock = MeshClock(GALAXY, Mesh(1, 4))
    clock.now = np.array([[1.0, 0, 0, 0]])
    clock.collective(Collective("gather", "KEY", Axis.COLS, 0.2, 0.05))
    hop = GALAXY.link_hop_s
    expected = 1.25 + np.array([0, 1, 2, 1]) * hop + clock.gap_s
    np.testing.assert_allclose(clock.now[0], expected, rtol=0, atol=1e-12)


def test_a_column_does_not_wait_for_another_column():
    clock = MeshClock(GALAXY, Mesh(2, 2))
    clock.now = np.array([[1.0, 0], [0, 0]])
    clock.collective(Collective("gather", "KEY", Axis.ROWS, 0.0, 0.0))
    assert (clock.now[:, 0] >= 1.0).all()
    assert (clock.now[:, 1] < 0.1).all()


def test_the_prefetcher_stalls_as_its_recurrence_says():
    """Three weights of 600 bytes through a buffer of 1000: each waits for the one before."""
    from dataclasses import replace

    machine = replace(GALAXY, dram_bytes_per_s=100.0, op_gap_s=1e-9)
    clock = MeshClock(machine, Mesh(1, 1), capacity_bytes=1000)
    clock.begin_step()
    clock.take(600)
    assert clock.now[0, 0] == 6.0  # read from 0 to 6
    clock.compute("matmul", 1.0, 24)
    clock.consumed()
    clock.take(600)
    assert clock.now[0, 0] == 13.0  # room from 7, read from 7 to 13
    clock.compute("matmul", 10.0, 24)
    clock.consumed()
    clock.take(300)
    assert clock.now[0, 0] == 23.0  # 300 fit beside 600: read from 13 to 16, no stall
    assert clock.stall_s[0, 0] == 12.0
    assert clock.core_s == 24 * 11.0


def test_work_beside_a_collective_is_hidden_by_it_or_hides_it():
    clock = MeshClock(GALAXY, Mesh(1, 1))
    clock.collective(Collective("both", "KEY", Axis.COLS, 1.5, 0.5, beside_s=1.0))
    assert clock.now[0, 0] == pytest.approx(2.0 + clock.gap_s)
    clock.collective(Collective("both", "KEY", Axis.COLS, 1.0, 0.0, beside_s=2.0))
    assert clock.now[0, 0] == pytest.approx(4.0 + 2 * clock.gap_s)


def test_attention_reads_multiplies_and_normalises():
    short = COSTS.attention_s(8, 8, 1, 128, 127, BFP8, 2e12)
    assert short == COSTS.attention_s(8, 8, 1, 128, 96, BFP8, 2e12)  # whole tiles of positions
    times = [COSTS.attention_s(8, 8, 1, 128, p, BFP8, 2e12) for p in (1023, 2047, 4095)]
    assert times[2] - times[1] == pytest.approx(2 * (times[1] - times[0]))
    # Eight kv heads of one user each keep every byte: reading is the bound.
    wide = COSTS.attention_s(1, 1, 1, 4096, 131_071, BFP8, 2e12)
    assert wide >= 2 * 131_072 * 4096 / 1024 * BFP8 / GALAXY.dram_bytes_per_s
