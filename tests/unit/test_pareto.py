"""The search for formats: figures from slices, goals, fronts, files; no model is run."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.engine.agreement import compare
from galaxy_mpi.engine.quality import Quality, Reference
from galaxy_mpi.engine.teacher import Answers
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.studies.candidates import Candidate, Grid, groups_of, setting_of
from galaxy_mpi.studies.goals import Goal
from galaxy_mpi.studies.pareto_search import Point, Search, front_of
from galaxy_mpi.studies.target_clock import Cost
from galaxy_mpi.systems.optimizations import optimizations_json, read_optimizations
from galaxy_mpi.systems.settings import DEFAULT, GALAXY_SETTINGS, TT_TRANSFORMERS_SETTINGS

QUALITY = Quality(positions=9, top1=0.9, top5=1.0, pcc=0.99, perplexity=20.0, kl=0.1)
COST = Cost(1e-3, 1.0, 1.0, {}, 1, 1, fits=True)


def slices(logits, cuts):
    """Return the parts of logits by rank: first chips of the rows of a mesh of two columns."""
    parts = np.split(np.asarray(logits, np.float32), cuts, axis=1)
    return {2 * row: part for row, part in enumerate(parts)}


@pytest.mark.parametrize("cuts", [[], [3], [1, 20], [20, 40]])
def test_figures_from_slices_are_those_of_whole_arrays(cuts):
    rng = np.random.default_rng(5)
    right = 3 * rng.standard_normal((70, 40))
    ours = right + 0.8 * rng.standard_normal(right.shape)
    right, ours = right.astype(np.float32), ours.astype(np.float32)
    tokens = rng.integers(0, 40, 70).tolist()
    reference = Reference(LocalTransport(Mesh(4, 2)), slices(right, cuts), tokens)
    found = reference.compare(slices(ours, cuts))
    stream = np.zeros((1, 70, 1), np.float32) + np.arange(70)[:, None]
    whole = compare("some", Answers(ours, stream), Answers(right, stream), tokens)
    assert (found.positions, found.top1, found.top5) == (70, whole.top1, whole.top5)
    assert 0.3 < found.top1 < 1
    assert found.pcc == pytest.approx(whole.logits_pcc, abs=1e-12)
    assert found.perplexity == pytest.approx(whole.perplexity, rel=1e-6)
    assert reference.quality.perplexity == pytest.approx(whole.reference_perplexity, rel=1e-6)
    p, q = (np.exp(v.astype(float)) for v in (right, ours))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    own = reference.quality
    assert (own.top1, own.top5, own.pcc) == (1, 1, pytest.approx(1))
    assert own.kl == pytest.approx(0, abs=1e-6)


def test_of_equal_logits_the_first_is_the_best_whatever_the_cut():
    right = [[1, 5, 5, 0], [2, 2, 2, 2]]
    for cuts in ([], [2], [1, 2, 3]):
        reference = Reference(LocalTransport(Mesh(4, 2)), slices(right, cuts), [1, 2])
        found = reference.compare(slices([[0, 9, 9, 0], [0, 1, 1, 1]], cuts))
        assert found.top1 == 0.5  # token 1 of 1 and 2; then token 1, where all are equal


@pytest.mark.parametrize("settings", [GALAXY_SETTINGS, TT_TRANSFORMERS_SETTINGS])
def test_what_systems_mean_by_their_names_are_candidates(settings):
    for choice in (*settings.performance, *settings.accuracy):
        assert setting_of(dict(groups_of(choice.setting))) == choice.setting


def test_a_written_file_is_read_as_what_was_written(tmp_path):
    grid = Grid.parse(["activation=mixed,bf16,bfp8", "kv_cache=bf16,bfp8,bfp4"], 1)
    layers = [setting for candidate in grid.candidates() for setting in candidate.settings]
    path = tmp_path / "formats.json"
    path.write_text(optimizations_json(layers))
    other = DEFAULT.but(dict.fromkeys(DEFAULT.formats))  # what a file leaves out would show
    assert read_optimizations(path, len(layers), other) == layers
    content = json.loads(path.read_text())["decoders"]
    assert content["0"]["precision_cfg"]["FF1_FF3"] == "BF16"  # the original's names
    assert content["0"]["fidelity_cfg"]["LI_FF1_FF3"] == "HIFI4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top1", "--target is for example top1>=95 or perplexity<=20, got 'top1'"),
        ("top1>=many", "--target is for example"),
        ("top9>=3", "--target: no metric 'top9'; choose top1, top5, pcc, perplexity, kl"),
        ("top1<=95", "--target: top1 can be bounded by >=, got 'top1<=95'"),
        ("perplexity>=20", "--target: perplexity can be bounded by <="),
    ],
)
def test_what_is_no_goal_is_told(text, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        Goal.parse(text)


def test_a_goal_is_met_from_its_bound_on():
    for text, met in (
        ("top1>=90", True),
        ("top1>=90.01", False),
        ("pcc>=0.99", True),
        ("perplexity<=20", True),
        ("perplexity<=19.9", False),
    ):
        assert Goal.parse(text).is_met(QUALITY) == met
        assert str(Goal.parse(text)) == text


def test_the_front_has_what_nothing_beats_in_both():
    def point(step_s, top1, kl=0.1):
        return Point(
            Candidate((((f"{step_s}", f"{top1}{kl}"),),)),
            replace(QUALITY, top1=top1, kl=kl),
            replace(COST, decode_step_s=step_s),
        )

    fast, slow, good = point(1, 0.5), point(2, 0.4), point(3, 0.9)
    equal, nearer = point(4, 0.95, kl=0.3), point(4, 0.95, kl=0.2)
    assert front_of([equal, good, nearer, slow, fast], "top1") == [fast, good, nearer]
    assert front_of([equal, good, nearer, slow, fast], "kl") == [fast]


TRIED = [
    "ff1_3=bfp8,bfp4",
    "ff2=bfp8,bfp4",
    "wqkv=bfp8",
    "wo=bfp8,bfp4",
    "kv_cache=bfp8",
    "activation=mixed",
]
"""Three groups with a choice: eight combinations, and 64 of two layers."""

SENSITIVITY = {"ff1_3": 0.010, "ff2": 0.020, "wo": 0.003}
SAVED_S = {"ff1_3": 9e-6, "ff2": 2e-6, "wo": 1e-6}


class Machine:
    """Formats that lose and save what the tables above say; the second layer loses twice that."""

    def __init__(self, fits=lambda candidate: True):
        self.asked, self.kept, self._fits = [], [], fits

    def measure(self, candidate, *, keeps=False):
        self.asked.append(candidate)
        self.kept += [candidate] if keeps else []
        kl = 0.001 + sum(
            (layer + 1) * SENSITIVITY[group]
            for layer, groups in enumerate(candidate.layers)
            for group, name in groups
            if name == "bfp4"
        )
        return replace(QUALITY, kl=kl, top1=1 - kl)

    def cost(self, candidate):
        saved = [SAVED_S[g] for layer in candidate.layers for g, n in layer if n == "bfp4"]
        return replace(COST, decode_step_s=1e-3 - sum(saved), fits=self._fits(candidate))

    def best(self, candidates, metric="kl"):
        """Return the front of all of them, measured without any search."""
        points = [Point(c, self.measure(c), self.cost(c)) for c in candidates]
        return [(p.cost.decode_step_s, p.quality.kl) for p in front_of(points, metric)]


def fronts(search):
    return [(p.cost.decode_step_s, p.quality.kl) for p in front_of(search.points({}), "kl")]


def test_the_search_finds_the_front_of_all_combinations_with_fewer_passes():
    machine, grid = Machine(), Grid.parse(TRIED, 2)
    search = Search(grid, machine.measure, machine.cost)
    search.by_group()
    n_asked = len(machine.asked)
    assert fronts(search) == machine.best(grid.candidates())
    assert n_asked == len(set(machine.asked[:n_asked])) < 8
    assert machine.kept[0] == grid.most_bits  # layers begin with it later
    search.by_group(is_exhaustive=True)
    assert {p.candidate for p in search.points({})} == set(grid.candidates())


def test_what_does_not_fit_the_target_is_no_point_and_is_counted():
    def fits(candidate):
        return dict(candidate.layers[0])["ff1_3"] == "bfp4"

    machine, grid = Machine(fits), Grid.parse(TRIED, 2)
    search = Search(grid, machine.measure, machine.cost)
    search.by_group()
    assert search.n_not_fitting == 4
    assert fronts(search) == machine.best(c for c in grid.candidates() if fits(c))


def test_by_layer_the_way_is_on_the_front_of_every_choice_of_every_layer():
    machine, grid = Machine(), Grid.parse(TRIED, 2)
    search = Search(grid, machine.measure, machine.cost)
    search.by_group()
    search.by_layer()
    layers = {candidate.layers[0] for candidate in grid.candidates()}
    every = machine.best(Candidate(pair) for pair in itertools.product(layers, repeat=2))
    found = fronts(search)
    # Greedily: the corners of the front, in their order, with the least and the most bits.
    assert found[0] == every[0]
    assert found[-1] == every[-1]
    assert len(found) > len(set(machine.best(grid.candidates())))
    for point in found:
        assert any(point == pytest.approx(other) for other in every), point


@pytest.mark.parametrize("bound", [0.002, 0.01, 0.035, 0.05, 0.2])
def test_the_answer_is_the_fastest_that_meets_the_target(bound):
    machine, grid = Machine(), Grid.parse(TRIED, 2)
    goal = Goal("kl", bound)
    search = Search(grid, machine.measure, machine.cost, [goal])
    search.by_group()
    answer = search.answer(search.points({}))
    meeting = [c for c in grid.candidates() if machine.measure(c).kl <= bound]
    assert answer.cost.decode_step_s == min(machine.cost(c).decode_step_s for c in meeting)
    search.by_layer()
    better = search.answer(search.points({}))
    assert better.quality.kl <= bound
    assert better.cost.decode_step_s <= answer.cost.decode_step_s


def test_there_is_no_answer_where_nothing_meets_the_target():
    machine = Machine()
    search = Search(Grid.parse(TRIED, 2), machine.measure, machine.cost, [Goal("kl", 1e-6)])
    search.by_group()
    search.by_layer()
    assert search.answer(search.points({})) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ff3=bfp8", "--try: no tensor group 'ff3'; choose ff1_3, ff2"),
        ("ff2=mixed", "--try: ff2 cannot be 'mixed'; choose bfp4, bfp8, bf16"),
        ("ff2", "--try: ff2 cannot be ''"),
    ],
)
def test_formats_that_cannot_be_tried_are_told(asked, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        Grid.parse([asked], 1)
