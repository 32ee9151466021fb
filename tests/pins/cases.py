"""All cases: a case is a command line, and its own name.

`NAME=VALUE` before the first word is set in the environment; FOLDER is that of `inputs`.
"""

from itertools import product

from tests.families import FAMILIES

SYSTEMS = ("galaxy", "tt_transformers")
PRECISIONS = ("float32", "accuracy", "performance")
LENGTHS = (128, 4096, 32768)
GALAXY_MODELS = ("demo", "llama3-70b", "qwen3-32b", "llama3-8b")

# --- python -m galaxy_mpi.estimate -------------------------------------------------------------


def _lengths(models: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return models with the lengths that they were made for."""
    longest = {"demo": 8192}
    return [(m, min(n, longest.get(m, n))) for m, n in product(models, LENGTHS)]


_STEP = "--new-tokens 1 --allow-over-budget"
"""A single step: its figures are not means."""

_MACHINES = ("1x1 --machine n150", "1x2 --machine n300", "1x8 --machine t3000")

DEVICE = (
    *(
        f"--model {model} --precision {precision} --input-tokens {length} {_STEP}"
        for precision, (model, length) in product(
            ("performance", "accuracy"), _lengths(GALAXY_MODELS)
        )
    ),
    *(
        f"--system tt_transformers --model {model} --input-tokens {length} {_STEP}"
        for model, length in _lengths(GALAXY_MODELS)
    ),
    *(
        f"--system tt_transformers --mesh {mesh} --model {model} --input-tokens {length} {_STEP}"
        for mesh, (model, length) in product(_MACHINES, _lengths(("demo", "llama3-8b")))
    ),
    *(
        f"--system {system} --mesh 2x2 --model {model} --input-tokens {length} {_STEP}"
        for system, (model, length) in product(SYSTEMS, _lengths(("demo", "qwen3-0.6b")))
    ),
    *(
        f"--system {system} --mesh {mesh} --model {model} {_STEP}"
        for system, mesh, model in product(
            SYSTEMS,
            ("1x1", "1x2", "1x3", "4x1", "3x2", "2x4"),
            ("demo", "smollm2-135m"),
        )
    ),
    *(
        f"--system {system} {what}"
        for system, what in product(
            SYSTEMS,
            (
                "--model llama3-70b",  # 128 steps, within the budget
                "--model llama3-70b --precision accuracy --input-tokens 2000 --new-tokens 1000",
                "--model llama3-70b --links 1",
                "--model llama3-70b --topology line",
                "--model llama3-70b --machine wormhole_galaxy_4u",
                "--model llama3-70b --users 1 --input-tokens 1025",
                "--model llama3-70b --no-prefetch --layers 3",
                "--model llama3-70b --prefill all --layers 8",
                "--model demo --prefill all --input-tokens 300 --users 20",
                "--model demo --slow-chip 1,0,1.7 --slow-link 1,1,row,3 --mesh 2x2",
                "--model demo --slow-chip 0,1,2.5 --slow-link 0,1,column,2 --mesh 1x3",
                "--model demo --optimizations FOLDER/layers.json --mesh 2x2",
                "--model mistral-7b --mesh 2x4",
                "--model llama3.2-1b --mesh 2x4 --input-tokens 9000",
            ),
        )
    ),
    "--model llama3-70b --circular-buffer-bytes 18000000",
)

TRACES = (
    "--mesh 2x2 --model demo --layers 2",
    "--mesh 2x2 --model demo --layers 1 --system tt_transformers",
)

# --- python -m galaxy_mpi.compare --timing-only ------------------------------------------------

COMPARISONS = (
    "--model demo",
    "--model llama3-70b",
    "--model llama3-70b --precision accuracy --position 4096 --layers 8",
    "--model demo --mesh 2x2 --users 8",
    "--model qwen3-0.6b --mesh 2x4",
)

# --- python -m galaxy_mpi.decode ---------------------------------------------------------------

_FEW = "--prompts-file FOLDER/few.txt --max-new-tokens 6"
_NUMBERS = "--prompts-file FOLDER/numbers.txt --max-new-tokens 6 --cache-blocks 64"
_GENERIC = "--system tt_transformers"

TOKENS_QUICK = (
    *(f"--model FOLDER/{family} --mesh 1x3 --precision float32 {_NUMBERS}" for family in FAMILIES),
    *(
        f"--model FOLDER/{family} --mesh 2x2 --system {system} {_NUMBERS}"
        for family, system in product(("llama3-tied", "qwen2", "qwen3"), SYSTEMS)
    ),
    *(
        f"--mesh {mesh} --precision {precision} {_FEW}"
        for mesh, precision in product(("1x1", "2x2"), PRECISIONS)
    ),
    *(f"--mesh {mesh} {_GENERIC} {_FEW}" for mesh in ("1x1", "1x2", "2x2")),
    f"--mesh 1x2 {_FEW}",
    f"--mesh 4x1 {_FEW}",
    "--mesh 2x2 --max-new-tokens 8",
    f"--mesh 2x2 --max-new-tokens 8 {_GENERIC} --precision float32",
    "--mesh 2x2 --prompts-file FOLDER/short.txt --max-new-tokens 4",
    f"--mesh 2x2 --prompts-file FOLDER/short.txt --max-new-tokens 4 {_GENERIC}",
    "--mesh 2x2 --prompts-file FOLDER/shared.txt --max-new-tokens 4",
    f"--mesh 2x2 --prompts-file FOLDER/shared.txt --max-new-tokens 4 {_GENERIC}",
    "--mesh 2x2 --prompts-file FOLDER/many.txt --max-new-tokens 3 --batch 6",
    "--mesh 2x4 --prompts-file FOLDER/long.txt --max-new-tokens 3",
    f"--mesh 2x2 --prompts-file FOLDER/long.txt --max-new-tokens 2 {_GENERIC}",
    f"--mesh 2x2 {_FEW} --temperature 0.8 --top-k 12 --top-p 0.9 --seed 7",
    f"--mesh 2x2 {_FEW} --optimizations FOLDER/layers.json",
    f"--mesh 2x2 {_FEW} --no-prefetch --no-fidelity --page-size 32",
    f"--mesh 2x2 {_FEW} --slow-chip 1,0,1.7 --slow-link 1,1,row,3",
)
"""Those that a test plays."""

TOKENS_SLOW = (
    *(
        f"--model FOLDER/{family} --mesh {mesh} --precision {precision} --system {system} "
        f"{_NUMBERS}"
        for family, mesh, precision, system in product(
            FAMILIES, ("2x4", "5x2"), ("float32", "performance"), SYSTEMS
        )
    ),
    *(
        f"--mesh {mesh} --precision {precision} --system {system} {_FEW}"
        for mesh, precision, system in product(("1x3", "2x4"), PRECISIONS, SYSTEMS)
    ),
    *(
        f"--mesh {mesh} --precision {precision} {_GENERIC} {_FEW}"
        for mesh, precision in product(("2x2", "4x1"), ("float32", "accuracy"))
    ),
    f"--mesh 2x4 --prompts-file FOLDER/long.txt --max-new-tokens 3 {_GENERIC}",
    "--mesh 2x4 --prompts-file FOLDER/long.txt --max-new-tokens 3 --precision float32",
    "LINE_RS=1 LINE_AG=1 --mesh 2x4 --prompts-file FOLDER/long.txt --max-new-tokens 3",
    "--mesh 2x2 --prompts-file FOLDER/longest.txt --max-new-tokens 2",
    f"--mesh 2x2 --prompts-file FOLDER/longest.txt --max-new-tokens 2 {_GENERIC}",
    "--mesh 2x4 --prompts-file FOLDER/short.txt --max-new-tokens 4",
    "--mesh 8x4 --batch 8 --max-new-tokens 8",
    "--mesh 8x4 --batch 8 --max-new-tokens 8 --precision float32",
    f"--mesh 8x4 --batch 4 --max-new-tokens 4 {_GENERIC}",
)
"""Only ``python -m tests.pins --check`` plays them."""

# --- galaxy_mpi.generator: options of create_model, as on a command line ------------------------

LOGITS = (
    *(
        f"--mesh {mesh} --system {system} --optimizations {precision}"
        for mesh, system, precision in product(("1x1", "1x2", "2x2"), SYSTEMS, PRECISIONS)
    ),
    *(f"--mesh {mesh} --system {system}" for mesh, system in product(("3x2", "4x1"), SYSTEMS)),
    *(f"--mesh 2x2 --system {system} --max-seq-len 1200" for system in SYSTEMS),
    "--mesh 2x4 --system galaxy --max-seq-len 1200",
    *(
        f"--model FOLDER/{family} --mesh 2x2 --system {system}"
        for family, system in product(FAMILIES, SYSTEMS)
    ),
)
