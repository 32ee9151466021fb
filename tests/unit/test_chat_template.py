"""Chat templates that never end, or want everything."""

import json
import resource
import sys

import pytest

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.render_template import MEMORY_BYTES
from galaxy_mpi.errors import CheckpointError


def test_all_prompts_are_rendered_at_once_and_in_order():
    template = ChatTemplate("{{ bos_token }}[{{ messages[0].content }}]", {"bos_token": "<s>"})
    assert template.apply_to_all(["one", "zwei — ü"]) == ["<s>[one]", "<s>[zwei — ü]"]


def test_loops_may_be_left():
    source = "{% for n in range(9) %}{% if n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    assert ChatTemplate(source, {}).apply("x") == "012"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 'a' * 10**10 }}", "more than 512 MiB of memory"),
        ("{{ ('a' * 10**8) }}", "texts of more than 67108864 characters"),
        ("{{ '\\ud800' }}", "surrogate"),
        # On a busy machine the time is over before the memory is.
        ("{{ 2 ** 9000000000 }}", "(memory|it takes longer)"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "it (exceeds its limit|takes longer than)",
        ),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be rendered"),
    ],
)
def test_bombs_end_in_a_line(source, said):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=f"{said}.*leave out --chat"):
        ChatTemplate(source, {}).apply("x")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MEMORY_BYTES  # what it took was not taken here


def test_the_child_sees_nothing_of_a_launcher(monkeypatch, tmp_path):
    """What a rank is told would make a child that knows MPI believe it was one."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    child = tmp_path / "python"
    child.write_text(
        f"#!{sys.executable}\nimport json, os\n"
        "print(json.dumps({'texts': [','.join(n for n in os.environ if 'OMPI' in n) + '.']}))\n"
    )
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    assert ChatTemplate("x", {}).apply("x") == "."


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"chat_template": 7}, "chat_template must be a text, got 7"),
        ({"chat_template": ["x"]}, "chat_template must be a list of objects"),
        ({"chat_template": [{"name": "default"}]}, "lacks the field 'template'"),
        ({"chat_template": "\udc80"}, "chat_template must be a text"),
    ],
)
def test_a_template_that_is_none(tmp_path, fields, said):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=said):
        ChatTemplate.of_folder(tmp_path)
