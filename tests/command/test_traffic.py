"""galaxy-mpi traffic, as people start it: alone, and with values on ranks."""

import json

from tests.command.decode_command import nobody_is_left
from tests.command.test_galaxy_mpi import run

QUICK = ["--model", "demo", "--mesh", "1x2", "--batch", "4", "--layers", "1", "--rate", "500"]
LENGTHS = ["--requests", "5", "--input-tokens", "uniform:3,40", "--output-tokens", "uniform:1,4"]


def test_ranks_are_started_for_values_only(tmp_path):
    words = ["traffic", *QUICK, *LENGTHS, "--json"]
    alone = run(*words, "alone.json", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    root = "--allow-run-as-root"  # where root is refused for good reason, the test asks for it
    ranks = run(root, *words, "ranks.json", "--with-values", cwd=tmp_path)
    assert ranks.returncode == 0, ranks.stderr
    assert ranks.stdout.startswith(alone.stdout)
    assert "device times of the run agree with these to the last bit" in ranks.stdout
    plain, found = (
        json.loads((tmp_path / name).read_text()) for name in ("alone.json", "ranks.json")
    )
    assert found["device"] == plain["device"]
    assert len(found["values"]["tokens"]) == 5
    assert nobody_is_left()
