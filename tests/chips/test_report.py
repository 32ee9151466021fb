"""Pages of runs with all chips in one process: probabilities, what another run says, and bytes."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from galaxy_mpi import Generator, create_model
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.engine.golden import Golden
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.report import to_html
from galaxy_mpi.report.gather.decode import decode_page
from galaxy_mpi.studies.against import run_against

RUN = RunConfig(
    prompts=("It is a truth", "Emma Woodhouse, handsome"), max_new_tokens=5, mesh=Mesh(2, 2)
)


def report_of(path, **changes):
    run = replace(RUN, report_path=path, **changes)
    with Engine(run, LocalTransport(run.working_mesh)) as engine:
        return engine.generate()


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    return report_of(tmp_path_factory.mktemp("report") / "run.html", precision="float32")


def test_probabilities_are_the_softmax_of_all_logits(float32):
    """Of another program: the whole vocabulary, gathered in one prefill."""
    model = create_model(mesh="2x2", optimizations="float32")
    with Generator(model) as generator:
        for request, seen in zip(float32.requests, float32.seen.tokens, strict=True):
            assert len(seen) == len(request.generated)
            for at, token in enumerate(request.generated):
                prompt = [*request.prompt, *request.generated[:at]]
                logits = np.asarray(generator.prefill_forward([prompt]), np.float64).reshape(-1)
                shares = np.exp(logits - logits.max())
                shares /= shares.sum()
                assert seen[at].probability == pytest.approx(shares[token], rel=1e-3)
                best = np.sort(shares)[::-1][:3]
                assert [p for _, p in seen[at].best] == pytest.approx(best, rel=1e-3)


def test_the_tokens_of_a_page_are_the_text(float32):
    for text, seen in zip(float32.text, float32.seen.tokens, strict=True):
        assert "".join(token.text for token in seen) == text


def test_only_so_many_tokens_are_told_with_probabilities(float32, monkeypatch):
    monkeypatch.setattr("galaxy_mpi.report.gather.texts._MOST_TOKENS", 5)
    html = to_html(decode_page(float32))
    assert html.count('<span class="token"') == len(float32.tokens[0]) == 5
    assert html.count("probabilities of the first 5 tokens only") == 1
    assert float32.text[1] in unescape(html)


def test_a_run_without_device_time_has_a_page(float32):
    html = to_html(decode_page(float32))
    assert 'id="texts"' in html
    assert 'id="mesh"' not in html


def test_a_run_notes_nothing_for_a_page_that_is_not_asked_for():
    assert report_of(None).seen is None


def test_the_same_command_is_the_same_page_but_for_the_host(tmp_path):
    def reproducible():
        html = to_html(decode_page(report_of(tmp_path / "run.html")))
        assert len(html) < 6e6
        # What is marked as of the host: values, tables, and figures with their charts.
        for tag in ("span", "table", "figure"):
            html = re.sub(rf'<{tag}[^>]*data-clock="host".*?</{tag}>', "", html, flags=re.DOTALL)
        return html

    first, second = reproducible(), reproducible()
    assert first == second
    assert 'id="mesh"' in first


def test_another_run_is_told_with_its_tokens_and_its_worst_op(tmp_path):
    run = replace(RUN, report_path=tmp_path / "run.html")
    report, against = run_against(run, "float32", LocalTransport(run.working_mesh), None)
    golden = Golden(tmp_path / "golden.json", [[*report.tokens[0][:2], 1], report.tokens[1]])
    html = to_html(decode_page(report, against, golden))
    assert against.n_same + sum(map(len, against.others)) == against.n_tokens
    worst = min(against.differences.found, key=lambda one: one.pcc)
    assert f"departs most</dt><dd>{worst.where}, PCC {worst.pcc:.6f}" in html
    assert html.count("golden.json from token") == 1
    assert "golden.json from token 3 on" in html
