"""The JSON Schemas in docs/ are those of the reports."""

import json
from pathlib import Path

import pytest

from tests.schemas import CASES, FOLDER, ON_RANKS, schema

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_schema_is_that_of_the_reports(name, tmp_path):
    """If it is not: raise the report's schema_version unless keys were only added, then make it."""
    file, made = schema(name, tmp_path)
    assert json.loads((FOLDER / file).read_text("utf-8")) == made, "python -m tests.schemas"
    assert f"(schemas/{file})" in PAGE


def test_no_schema_is_left_over():
    names = {path.name.rpartition("-")[0] for path in FOLDER.glob("*.json")}
    assert names == set(CASES | ON_RANKS)
    assert len(list(FOLDER.iterdir())) == len(names)
