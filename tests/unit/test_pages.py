"""Pages of documentation: all are listed, lines are short, and tables agree with the code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("tutorials/*.md")),
    *sorted(DOCS.glob("examples/*.md")),
]
OTHERS = [ROOT / "tests/golden/README.md", ROOT / "galaxy_mpi/checkpoints/demo/README.md"]
VARIABLE = re.compile(
    r"(GALAXY_MPI|OMPI_ALLOW|OMPI_COMM|OMPI_MCA|PMIX?|MPI|MPIR|PRTE|SLURM|XDG|KUBERNETES|LLAMA|WH)"
    r"_\w+|LINE_(RS|AG)|\w+_NUM_THREADS|OPENBLAS_CORETYPE|TMPDIR|COLUMNS"
)


def variables_in_code() -> set[str]:
    """Return string literals of the package that are names of environment variables."""
    scripts = [path.read_text("utf-8") for path in sorted((ROOT / "launch").glob("*.sh"))]
    found = {name for text in scripts for name in re.findall(r"\$\{([A-Z_]+):?-", text)}
    for path in [ROOT / "setup.py", *sorted((ROOT / "galaxy_mpi").rglob("*.py"))]:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        texts = (str(node.value) for node in nodes if isinstance(node, ast.Constant))
        found |= {text for text in texts if VARIABLE.fullmatch(text) and not text.endswith("_")}
    return found


def test_every_environment_variable_is_in_the_table_and_the_other_way_round():
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "environment.md").read_text("utf-8"), re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(told) == len(set(told))
    assert set(told) == variables_in_code()


def test_every_page_is_in_the_index_of_the_site():
    listed = set(re.findall(r"^([\w/]+)$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE))
    names = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES}
    assert names - {"index"} == {name for name in listed if not name.startswith("generated/")}


def test_lines_are_at_most_120_characters_except_in_tables_and_output():
    too_long = []
    for path in [*PAGES, *sorted(ROOT.glob("*.md")), *OTHERS]:
        in_block = False
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            in_block ^= line.lstrip().startswith("```")
            if len(line) > 120 and not in_block and not line.startswith("|"):
                too_long.append(f"{path.name}:{number}")
    assert not too_long


def test_links_between_files_lead_somewhere():
    for path in [*PAGES, *sorted(ROOT.glob("*.md"))]:
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)\s#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
