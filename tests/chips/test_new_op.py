"""A new op is one class and one field: ops that no system has, added and run, values and times."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from galaxy_mpi.ccl.direct import DirectAllGather
from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import BF16
from galaxy_mpi.errors import ConfigError, ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Kernel
from galaxy_mpi.systems import PRECISIONS, system_of, then
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs
from tests.chips.playing import report_of
from tests.families import random_prompts, write_family
from tests.reference import greedy_tokens

HALVE_S = 3e-6


class Halve(SystemOp):
    """Halves a block's output; exact in every format."""

    def __call__(self, x):
        (out,) = self.record(x.program, (x,), out=x.shape)
        return out

    def cuts(self):
        return {"out": self.stream_cut}

    def charges(self, costs):
        yield Kernel(self.name, HALVE_S, 8)

    def bind(self, chip, x):
        out = chip.array(*x.shape)
        chip.call(np.multiply, x, np.float32(0.5), out)
        return out


class MeanOfRows(SystemOp):
    """Gathers the rows' equal replicas of a block's output and takes the mean, of 2: exact."""

    def __call__(self, x):
        (out,) = self.record(x.program, (x,), out=x.shape)
        return out

    def cuts(self):
        return {"out": self.stream_cut}

    @property
    def _gather(self):
        dtype = self.formats.w2_sum
        return self.wire("MEAN", Axis.COLUMN, Kind.ALL_GATHER, dtype, self.shape.stream)

    def wires(self):
        return (self._gather,)

    def charges(self, costs):
        yield from self.cross(costs, self._gather)

    def bind(self, chip, x):
        gathered = chip.collective(self._gather)
        chip.call(np.copyto, gathered.term, x)
        out = chip.array(*x.shape)
        chip.call(np.mean, gathered.cross(), 0, None, out)
        return out


class Uncharged(MeanOfRows):
    """The same, but it names no wire."""

    def wires(self):
        return ()


class Unasked(MeanOfRows):
    """The same, but it makes the collective itself."""

    def bind(self, chip, x):
        gathered = DirectAllGather(chip, self._gather)
        chip.call(np.copyto, gathered.term, x)
        return gathered.cross()[0]


class AlsoUnasked(MeanOfRows):
    """It asks for one collective, and makes another like it as well."""

    def bind(self, chip, x):
        out = super().bind(chip, x)
        more = DirectAllGather(chip, self._gather)
        chip.call(np.copyto, more.term, x)
        more.cross()
        return out


class Unmade(MeanOfRows):
    """It asks for slabs, and takes none."""

    def bind(self, chip, x):
        out = chip.array(*x.shape)
        chip.slabs(self._gather)
        chip.call(np.copyto, out, x)
        return out


class Computed(Halve):
    """Halves the values that are there when it is bound, which are none."""

    def bind(self, chip, x):
        out = super().bind(chip, x)
        chip.round(BF16, out)
        return out * np.float32(1)


class Forgotten(Halve):
    """It forgets where the values go."""

    def bind(self, chip, x):
        out = chip.array(*x.shape)
        chip.call(np.multiply, x, np.float32(0.5))
        return out


class Called(Halve):
    """It computes at once, and records the result."""

    def bind(self, chip, x):
        out = chip.array(*x.shape)
        chip.call(np.multiply(x, np.float32(0.5)), out)
        return out


class Viewed(Halve):
    """Returns a view that numpy makes of a foreign object."""

    def bind(self, chip, x):
        out = super().bind(chip, x)
        return np.lib.stride_tricks.as_strided(out, out.shape, out.strides)


def with_op(name, mesh, op):
    """Return a system with an op behind the feed-forward, in both modes."""
    system = system_of(name, mesh)
    return replace(
        system,
        name=f"{name} and {op.__name__}",
        decode=replace(system.decode, down=then(system.decode.down, op)),
        prefill=replace(system.prefill, down=then(system.prefill.down, op)),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and the same whose feed-forwards are halved."""
    plain = write_family("llama", tmp_path_factory.mktemp("plain"))
    halved = tmp_path_factory.mktemp("halved")
    shutil.copytree(plain, halved, dirs_exist_ok=True)
    for path in halved.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(
            {k: t / 2 if "down_proj" in k else t for k, t in tensors.items()},
            path,
            metadata={"format": "pt"},
        )
    return plain, halved


def run_of(folder, mesh, system, precision="float32"):
    prompts = random_prompts(3)
    return RunConfig(
        model=str(folder),
        precision=precision,
        mesh=mesh,
        system=system,
        prompt_tokens=prompts,
        max_new_tokens=6,
        cache_blocks=64,
        check=True,
    )


@pytest.mark.parametrize(
    ("name", "mesh"), [("galaxy", "2x2"), ("tt_transformers", "2x2"), ("tt_transformers", "1x3")]
)
def test_tokens_are_those_of_a_model_that_is_so_by_its_weights(folders, name, mesh):
    plain, halved = folders
    mesh, prompts = Mesh.parse(mesh), [list(prompt) for prompt in random_prompts(3)]
    found = report_of(run_of(plain, mesh, with_op(name, mesh, Halve))).tokens
    assert found == greedy_tokens(halved, prompts, 6) != greedy_tokens(plain, prompts, 6)


def test_it_may_return_a_view(folders):
    mesh = Mesh(2, 2)
    systems = (with_op("galaxy", mesh, op) for op in (Halve, Viewed))
    halve, viewed = (report_of(run_of(folders[0], mesh, system)).tokens for system in systems)
    assert halve == viewed


def test_it_is_in_the_device_time_of_both_modes(folders):
    mesh = Mesh(2, 2)
    systems = (system_of("galaxy", mesh), with_op("galaxy", mesh, Halve))
    reports = [report_of(run_of(folders[0], mesh, system, "performance")) for system in systems]
    plain, more = (report.device.times for report in reports)
    costs, n_layers = Costs(Machine.load("wormhole_galaxy_6u")), reports[0].model.n_layers
    # A pass of so few rows is as long as the host takes to issue its ops.
    for mode, of_mode, each_s in (
        ("steps", "step_s", HALVE_S + costs.machine.op_gap_s),
        ("passes", "pass_s", costs.issue_s("prefill")),
    ):
        lengths = [getattr(times, of_mode) for times in (plain, more)]
        each = [after - before for before, after in zip(*lengths, strict=True)]
        assert each == pytest.approx([n_layers * each_s] * len(each))
        assert getattr(more, mode).by_op_s["halve"] == pytest.approx(sum(each))
        assert "halve" not in getattr(plain, mode).by_op_s


def test_what_it_sends_is_checked_and_charged(folders):
    mesh = Mesh(2, 2)
    systems = ("galaxy", with_op("galaxy", mesh, MeanOfRows))
    plain, mean = (report_of(run_of(folders[0], mesh, s, "performance")) for s in systems)
    assert mean.tokens == plain.tokens
    of_column = [r.device.times.steps.link_bytes["column"] for r in (plain, mean)]
    assert of_column[1] > of_column[0]


def test_a_class_in_the_wrong_field_is_told():
    galaxy, mesh = system_of("galaxy", Mesh(2, 2)), Mesh(2, 2)
    wrong = replace(galaxy, decode=replace(galaxy.decode, down=galaxy.decode.rotate))
    programs = Programs(PRESETS["llama3-8b"], mesh, wrong, PRECISIONS["performance"], users=4)
    with pytest.raises(ConfigError, match="System.decode is a PrefillTable, not a DecodeTable"):
        replace(galaxy, decode=galaxy.prefill)
    with pytest.raises(ConfigError, match="then: 'halve' is no op class"):
        then(galaxy.decode.down, "halve")
    with pytest.raises(ProgramError, match=r"FusedRotate is in the wrong field .* of \(site, w2\)"):
        programs.decode()


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (Uncharged, "Uncharged.* exchanges all_gather MEAN.*which its `wires` do not name"),
        (Unasked, "op unasked of layer 0, chip .* MEAN .* not asked for it with"),
        (AlsoUnasked, "op also_unasked of layer 0, chip .* MEAN .* not asked for it with"),
        (Unmade, "op unmade of layer 0, chip .* asks for .* MEAN .* but does not make it"),
        (
            Forgotten,
            "op forgotten of layer 0, .*Forgotten.* an array that none of its calls writes",
        ),
        (Called, "op called of layer 0, chip .* `chip.call` needs a function .* got ndarray"),
        (Computed, "op computed of layer 0, .*Computed.* an array that none of its calls writes.*"),
    ],
)
def test_a_mistake_in_its_bind_is_told_with_op_and_chip(folders, op, told):
    mesh = Mesh(2, 2)
    with pytest.raises(ProgramError, match=told):
        report_of(run_of(folders[0], mesh, with_op("galaxy", mesh, op)))
