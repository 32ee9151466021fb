"""Pages as text: what is in them, and that nothing else is. How they look: tests/command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from galaxy_mpi.report import (
    Bars,
    Column,
    Curves,
    Facts,
    Page,
    Section,
    Span,
    Table,
    Timeline,
    Waterfall,
    to_html,
)
from galaxy_mpi.report.figures import figure_of
from galaxy_mpi.report.gather.estimate import estimate_page
from galaxy_mpi.report.gather.mesh import mesh_section
from galaxy_mpi.report.parts import Texts, Token, UserText
from galaxy_mpi.studies.what_if import WhatIf
from tests.unit.test_report_pages import VERSIONS, shown_step

NASTY = "</script><script>alert(1)</script> & <b>\"'"
TABLE = Table([Column("op"), Column("time", "us", ".1f")], [["a", 1.0], [NASTY, None]], "Ops")
CHARTS = [
    Bars("Bars", "us", ["a", NASTY], {"x": [1.0, None]}, TABLE, ends={"x": [(0.5, 2.0), None]}),
    Waterfall("Waterfall", "us", [("a", 1.0, "DRAM"), (NASTY, 2.0, "link")], TABLE, margin=0.2),
    Timeline("Timeline", "us", ["t"], [Span("t", NASTY, 0, 1, "op")], TABLE, {"q": [(0, 1.0)]}),
    Curves("Curves", "rate, 1/s", "ms", {NASTY: [(1.0, 2.0), (2.0, 3.0)]}, TABLE, is_log=True),
]


def page_of(*parts, **more):
    return Page("Title", ["galaxy_mpi", NASTY], [("model", NASTY)], [Section("One", parts)], **more)


def own_text(html):
    """Return the page without the library."""
    return re.sub(r'<script [^>]*id="library">.*?</script>', "", html, count=1, flags=re.DOTALL)


def test_what_users_write_is_text_and_never_markup():
    texts = Texts([UserText(0, NASTY, [Token(NASTY, 0.5, [(NASTY, 0.5)], NASTY)], NASTY, NASTY)])
    html = own_text(to_html(page_of(TABLE, Facts([(NASTY, NASTY)]), texts, *CHARTS)))
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "<b>" not in html


def test_a_page_loads_nothing():
    html = own_text(to_html(page_of(*CHARTS)))
    assert "default-src 'none'" in html
    assert not re.search(r"\b(src|srcset|action)\s*=", html)
    assert set(re.findall(r'href="([^#"][^"]*)"', html)) == {"data:,"}
    assert not re.search(r"url\(|@import", html)


def test_a_page_without_charts_has_no_library():
    html = to_html(page_of(TABLE))
    assert len(html) < 40_000
    assert 'id="library"' not in html


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_a_figure_is_json_and_its_table_is_there_without_scripts(chart):
    figure = json.loads(json.dumps(figure_of(chart), allow_nan=False))
    assert {trace["type"] for trace in figure["data"]} <= {"bar", "scatter"}
    html = own_text(to_html(page_of(chart)))
    assert html.count("<table>") == 1
    (text,) = re.findall(r'data-chart="[^"]*">(.*?)</script>', html, re.DOTALL)
    assert json.loads(text)["data"]


def test_bars_of_a_waterfall_follow_each_other():
    steps = [("a", 1.0, "link"), ("b", 2.0, "DRAM"), ("c", 4.0, "link")]
    figure = figure_of(Waterfall("", "us", steps, TABLE, margin=0.25))
    link, dram, total = figure["data"]
    assert (link["base"], link["x"], link["y"]) == ([0.0, 3.0], [1.0, 4.0], [0, 2])
    assert (dram["base"], dram["x"]) == ([1.0], [2.0])
    assert total["x"] == [7.0]
    assert total["error_x"]["array"] == [1.75]
    assert total["error_x"]["arrayminus"] == pytest.approx([7 - 7 / 1.25])


def test_host_time_is_marked_so_that_the_rest_can_be_compared():
    page = page_of(Table(TABLE.columns, TABLE.rows, is_host=True), host_facts=[("host: step", "1")])
    assert to_html(page).count('data-clock="host"') == 2


def test_the_same_estimate_is_the_same_page():
    pages = []
    for _ in range(2):
        what_if = WhatIf(model="llama3-8b", layers=2)
        said = {"argv": ["galaxy_mpi.estimate"], "versions": VERSIONS, "config": {}}
        pages.append(to_html(estimate_page(what_if, what_if.report | {"run": said})))
    assert pages[0] == pages[1]
    assert len(pages[0]) < 3e6


def test_pages_are_imported_only_when_one_is_asked_for():
    commands = ("decode", "estimate", "compare", "validate", "traffic", "pareto")
    names = "; ".join(f"import galaxy_mpi.{command}" for command in commands)
    code = f"{names}; import sys; print([m for m in sys.modules if m in {ONLY_FOR_PAGES}])"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


ONLY_FOR_PAGES = ("galaxy_mpi.report", "plotly", "galaxy_mpi.report.html")


def test_the_example_of_the_documents_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "docs/report.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "True"


def machine_of(folder, mesh):
    """Return the file of a machine of so many chips."""
    path = folder / "large.yaml"
    path.write_text(
        f"name: large\nextends: wormhole_galaxy_6u\nmesh: {mesh}\ntopology: ring\nconstants: {{}}\n"
    )
    return str(path)


def test_a_page_of_the_largest_mesh_stays_below_six_megabytes(tmp_path):
    step = shown_step(machine=machine_of(tmp_path, "64x64"), allow_over_budget=True)
    html = to_html(page_of(*mesh_section(step).parts, *CHARTS))
    assert len(re.findall('class="chip( marked)?"', html)) == 64 * 64
    assert len(html) < 6e6


def test_a_page_of_long_texts_stays_below_six_megabytes(tmp_path):
    step = shown_step(machine=machine_of(tmp_path, "32x8"), allow_over_budget=True)
    token = Token("antidisestablishment", 0.123, [("word", 0.1), ("other", 0.1), ("third", 0.1)])
    texts = Texts([UserText(user, "prompt " * 20, [token] * 156, "length") for user in range(32)])
    html = to_html(page_of(*mesh_section(step).parts, texts, *CHARTS))
    assert html.count('class="chip-details"') == 32 * 8
    assert len(html) < 6e6
