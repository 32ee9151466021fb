"""What the pages of commands tell, against what the commands know."""

import numpy as np
import pytest

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import BFP8
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.report import (
    to_html,
)
from galaxy_mpi.report.figures import figure_of
from galaxy_mpi.report.gather.collectives import collectives_page
from galaxy_mpi.report.gather.compare import compare_page
from galaxy_mpi.report.gather.links import loads_of, wire_shares
from galaxy_mpi.report.gather.mesh import mesh_section, waited_for_s
from galaxy_mpi.report.gather.pareto import pareto_page
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.gather.traffic import traffic_page
from galaxy_mpi.report.gather.wires import bandwidth_of
from galaxy_mpi.serving.lengths import Lengths
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.report import to_dict as traffic_report
from galaxy_mpi.serving.traffic import Traffic
from galaxy_mpi.studies.comparison import device_figures, rows_of, stored
from galaxy_mpi.studies.ideas import variants
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import Wanted
from galaxy_mpi.timing import Machine


def shown_step(**asked):
    what_if = WhatIf(model="llama3-8b", layers=2, **asked)
    positions = [what_if.longest] * what_if.programs.mesh.cols
    return ShownStep(what_if.estimator, positions, what_if.slowness, "the step")


VERSIONS = dict.fromkeys(("galaxy_mpi", "codec", "numpy", "python"), "1")


def test_what_chips_do_adds_up_to_the_step():
    step = shown_step(slow_chips=("3,1,2",), slow_links=("0,2,column,4",))
    shares = step.shares
    whole = sum(vars(shares).values())
    assert whole == pytest.approx(np.full((8, 4), step.timing.seconds))
    assert step.timing.seconds == step.estimator.step(step.positions).seconds
    assert shares.busy_s[3, 1] == pytest.approx(2 * shares.busy_s[0, 0])
    # All others wait for the slow chip, which hardly waits for anybody.
    others = np.delete(shares.waiting_s.reshape(-1), Mesh(8, 4).rank(3, 1))
    assert shares.waiting_s[3, 1] < others.min() / 5
    waited = waited_for_s(step)
    assert max(waited, key=waited.__getitem__) == Mesh(8, 4).rank(3, 1)


def test_waiting_for_the_host_is_not_work():
    what_if = WhatIf(model="llama3.2-1b", machine="t3000")
    step = ShownStep(what_if.estimator, [128], what_if.slowness, "the step")
    host_s = step.timing.by_op_s["host"]
    assert host_s > step.timing.seconds / 3
    assert step.shares.host_s == pytest.approx(np.full((8, 1), host_s))
    assert step.shares.busy_s.max() < step.timing.seconds - host_s
    shown = {name for chip in mesh_section(step).parts[0].chips for name in chip.shares}
    assert "host" in shown
    assert "host" not in mesh_section(shown_step()).parts[0].chips[0].shares


def test_chips_that_are_alike_wait_for_nobody():
    step = shown_step()
    assert not step.shares.waiting_s.any()
    assert not waited_for_s(step)


def test_a_stall_is_what_the_clock_says():
    step = shown_step(constants=("machine.dram_bytes_per_s=5e10",), slow_chips=("0,0,0.5",))
    assert step.timing.stall_s > 0
    assert step.shares.stall_s.max() == pytest.approx(step.timing.stall_s)


@pytest.mark.parametrize("topology", ["ring", "line"])
def test_the_busiest_wire_carries_what_the_clock_charges(topology):
    step = shown_step(topology=topology)
    loads = list(loads_of(step))
    for axis in Axis:
        busiest = max(max(x.there_bytes, x.back_bytes) for x in loads if x.axis is axis)
        assert busiest <= step.timing.link_bytes[axis.group_name] * (1 + 1e-12)
    n_wires = {"ring": 64, "line": 7 * 4 + 8 * 3}
    assert len(loads) == n_wires[topology]


def test_blocks_of_a_line_are_counted_as_they_travel():
    """Move every block along a line of four, and count what passes each wire."""
    size, there, back = 4, [0] * 3, [0] * 3
    for owner in range(size):
        for reader in range(size):
            wires = range(owner, reader) if reader > owner else range(reader, owner)
            # A block passes a wire once, on its way to the farthest reader.
            if reader in (0, size - 1):
                for wire in wires:
                    (there if reader > owner else back)[wire] += 1
    shares = [wire_shares(Kind.ALL_GATHER, i, size, is_ring=False) for i in range(3)]
    assert shares == [(t / 3, b / 3) for t, b in zip(there, back, strict=True)]


def test_bandwidths_are_those_of_nccl_tests():
    gather = Wire("LAYERNORM", Axis.ROW, Kind.ALL_GATHER, BFP8, (32, 32))
    found = bandwidth_of(gather, Mesh(8, 4), 1e-6)
    assert found.size_bytes == 4 * 1088
    assert found.algbw == pytest.approx(4 * 1088 / 1e-6)
    assert found.busbw == pytest.approx(found.algbw * 3 / 4)
    reduce = Wire("WO", Axis.COLUMN, Kind.ALL_REDUCE, BFP8, (32, 32))
    assert bandwidth_of(reduce, Mesh(8, 4), 1e-6).busbw == pytest.approx(1088 / 1e-6 * 2 * 7 / 8)


def test_a_comparison_is_told_row_by_row():
    mesh, model = Mesh(8, 4), PRESETS["llama3-8b"]
    found = variants(mesh)
    machine = Machine.load("wormhole_galaxy_6u")
    device = device_figures(found, model, machine, mesh, Wanted(), users=32, position=128)
    rows = rows_of(found, device, None)
    run = {"argv": ["galaxy_mpi.compare"], "versions": VERSIONS, "config": {}}
    page = compare_page(rows, run, "llama3-8b", list(stored(model, found)))
    chart = page.sections[0].parts[0]
    steps = [row for row in rows if not row.is_alone]
    assert list(chart.series["device"]) == [row.device.seconds * 1e3 for row in steps]
    assert [cells[0].removeprefix("+ ") for cells in chart.table.rows] == [r.name for r in steps]
    sent, unit = rows[0].device.link_bytes.values(), chart.table.columns[5].unit
    assert (unit, chart.table.rows[0][5]) == ("MiB", sum(sent) / 2**20)
    html = to_html(page)
    assert 'id="host-time"' not in html
    for row in steps:
        assert f"{row.device.seconds * 1e3:.3f}</td>" in html


def test_a_benchmark_of_collectives_has_a_curve_for_each_way():
    row = dict.fromkeys(("dtype", "transport"), "auto") | {
        "op": "all_reduce", "axis": "row", "wrong": 2, "implementation": "galaxy_mpi",
    }  # fmt: skip
    figures = ("time_us", "time_min_us", "time_max_us", "algbw_GBps", "busbw_GBps")
    device = ("device_time_us", "device_busbw_GBps", "device_peak_GBps")
    rows = [
        row
        | {"topology": way, "ran_as": way, "size_bytes": size}
        | {n: float(size) for n in (*figures, *device)}
        for way in ("ring", "direct")
        for size in (1024, 2048)
    ]
    rows.append(rows[0] | {"implementation": "mpi", "topology": ""})
    page = collectives_page(rows, ["ring_collectives"], {"mesh": "2x2", "check": 1})
    times = page.sections[0].parts[0]
    ways = {"galaxy_mpi ring", "galaxy_mpi direct", "device ring", "device direct", "mpi"}
    assert set(times.curves) == ways
    assert times.curves["device ring"] == [(1024.0, 1024.0), (2048.0, 2048.0)]
    assert times.is_host
    assert ("wrong values", "10") in page.facts


def test_a_day_of_traffic_has_its_places_and_its_queue(tmp_path):
    what_if = WhatIf(model="llama3-8b", layers=2, users=2, new_tokens=1, allow_over_budget=True)
    lengths = Lengths.parse("--input-tokens", "128")
    load = Load(rate=None, concurrency=3, trace=None, n_requests=6, inputs=lengths,
                outputs=lengths, seed=0)  # fmt: skip
    day = Traffic(what_if=what_if, load=load).day()
    content = traffic_report(day, ["galaxy_mpi.traffic"])
    page = traffic_page(content, day.service.served)
    (places,) = (section for section in page.sections if section.title == "Places")
    (chart,) = places.parts
    requests = {span.name for span in chart.spans}
    assert requests == {f"request {n}" for n in range(6)}
    for one in day.service.served:
        mine = [span for span in chart.spans if span.name == f"request {one.number}"]
        assert [span.group for span in mine] == ["prefill", "decode"]
        assert mine[0].end == one.first_token_s
        assert {span.track for span in mine} == {f"place {one.place}"}
    # Three clients and two places a column: at the end nobody is left.
    assert max(n for _, n in chart.levels["with a place"]) <= 3
    assert chart.levels["with a place"][-1][1] == 0
    html = to_html(page)
    assert f"{content['device']['ttft_s']['mean'] * 1e3:.2f}</td>" in html


def test_a_search_is_told_with_its_front_and_its_answer():
    def point(step_us, top1, **more):
        figures = dict.fromkeys(("top5", "pcc", "perplexity", "time_to_first_token_s"), 1.0)
        sizes = dict.fromkeys(("dram_bytes", "weights_bytes", "kv_cache_bytes"), 2**20)
        formats = {"wo": ["bfp8", "bfp8", "bfp4"], "ff2": "bfp4"}
        about = {"name": None, "is_on_front": True, "formats": formats}
        return {"decode_step_s": step_us / 1e6, "top1": top1, **figures, **sizes, **about, **more}

    points = [point(30, 0.99), point(10, 0.9), point(20, 0.95, name="accuracy")]
    points.append(point(40, 0.9, is_on_front=False))
    target = {"mesh": "8x4", "machine": "m", "constants": [], "users": 32, "input_tokens": 1}
    content = {
        "run": {"argv": ["galaxy_mpi.pareto"], "versions": VERSIONS},
        "target": target | {"new_tokens": 1, "decode_step_s_margin": 0.16},
        "reference": {"positions": 64, "perplexity": 30.0},
        "model": "demo", "mesh": "2x2", "system": "galaxy", "tokens": 64, "metric": "top1",
        "targets": ["top1>=94"], "answer": 2, "passes": 5, "points": points,
    }  # fmt: skip
    page = pareto_page(content)
    chart = page.sections[0].parts[0]
    assert chart.curves["front"] == [(10.0, 90.0), (20.0, 95.0), (30.0, 99.0)]
    assert chart.curves["measured"] == [(40.0, 90.0)]
    assert chart.curves["answer to --target"] == chart.curves["accuracy"] == [(20.0, 95.0)]
    assert page.facts[0] == ("top1>=94", "20.00 us: wo 2 x bfp8, 1 x bfp4; ff2 bfp4")
    assert figure_of(chart)["data"][0]["mode"] == "markers"
    assert "the front is joined" in to_html(page)
