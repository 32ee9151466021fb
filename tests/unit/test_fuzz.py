"""Inputs that once ended in a traceback, and a few hundred fresh ones of every format."""

import logging
from pathlib import Path

import pytest

from tests.fuzz import play as fuzz
from tests.fuzz.format import Format
from tests.fuzz.formats import FORMATS

CORPUS = Path(fuzz.__file__).parent / "corpus"

FEW = dict.fromkeys(("config", "generation_config", "tokenizer_config"), 100)
FEW |= {"template": 8, "machine": 60, "params": 150, "arguments": 150}
"""Formats whose inputs take long."""


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="galaxy_mpi")


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_escapes_but_errors_of_the_user(name, tmp_path):
    what = FORMATS[name](tmp_path / "input")
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    fresh = list(fuzz.mutations(what, FEW.get(name, 250), seed=1))
    outcome = fuzz.play(what, [what.good, *kept, *fresh] if what.good else [*kept, *fresh])
    assert outcome.escaped == []
    assert outcome.n_refused > 0 or name == "index"  # which nobody reads


def test_the_corpus_is_of_formats_that_there_are():
    assert {path.name for path in CORPUS.iterdir()} <= set(FORMATS)


def test_what_escapes_is_told():
    """The fuzzer would notice: a traceback, a message of two lines, and what never ends."""

    def play(content: bytes) -> None:
        if content == b"loop":
            while True:
                pass
        from galaxy_mpi.errors import UserError

        raise {b"panic": BaseException("x"), b"lines": UserError("a\nb")}.get(
            content, UserError("a")
        )

    what = Format(b"", lambda content, chance: content, play, limit_s=0.05)
    outcome = fuzz.play(what, [b"loop", b"panic", b"lines", b"fine"])
    assert [content for content, _ in outcome.escaped] == [b"loop", b"panic", b"lines"]
    assert outcome.n_refused == 2


def test_the_same_seed_makes_the_same_inputs(tmp_path):
    what = FORMATS["golden"](tmp_path / "input")
    first, again, other = (list(fuzz.mutations(what, 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
