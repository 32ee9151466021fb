"""The pictures of docs/report.md: ``python -m tests.pictures [NAME...]``.

Each is a part of a page that a command writes, taken in a headless Chromium (`tests.browser`).
"""

import io
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.browser import missing, open_browser, picture_png, show

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"

COLOURS = 160
"""Of a palette: enough for text and bars, and a third of the bytes."""


@dataclass(frozen=True)
class Picture:
    """One file of the folder."""

    command: str
    selector: str
    """Of the page: what is taken."""
    anchor: str = ""
    """Opened first."""
    dark: bool = False
    width: int = 1000


_SLOW = "--slow-chip 3,1,1.5 --slow-link 2,0,row,4"
_RUN = "python -m galaxy_mpi.decode --mesh 2x2 --chips-per-rank 4 --batch 4 --max-new-tokens 16"

PICTURES = {
    "mesh": Picture(
        f"python -m galaxy_mpi.estimate {_SLOW}",
        "#mesh h2, #mesh p, .mesh-picture, #chip-3-1",
        "#chip-3-1",
    ),
    "ops": Picture(
        "python -m galaxy_mpi.estimate", "#ops-of-a-step figcaption, #ops-of-a-step .chart"
    ),
    "layer": Picture(_RUN, "#one-layer figcaption, #one-layer .chart"),
    "collectives": Picture(
        "python -m galaxy_mpi.estimate", "#collectives figcaption, #collectives .chart", dark=True
    ),
    "compare": Picture(
        "python -m galaxy_mpi.compare --timing-only --model llama3-70b",
        "#device-time h2, #device-time figure:first-of-type figcaption, #chart-1-1",
    ),
    "validate": Picture("python -m galaxy_mpi.validate", "header, #times figcaption, #chart-1-1"),
    "traffic": Picture(
        "python -m galaxy_mpi.traffic --model llama3-70b --rate 2.5 --requests 300",
        "#places h2, #places p, #places figcaption, #places .chart",
    ),
    "traffic_sweep": Picture(
        "python -m galaxy_mpi.traffic --model llama3-70b --requests 300 --sweep rate=1,2,4,6,8",
        "#time-to-first-token",
    ),
    "pareto": Picture(
        "python -m galaxy_mpi.pareto --mesh 2x2 --chips-per-rank 4 --target top1>=95 "
        f"--text {ROOT}/benchmarks/prose.txt",
        "#front h2, #front figcaption, #front .chart",
    ),
    "ring_collectives": Picture(
        f"mpirun -n 4 python {ROOT}/benchmarks/ring_collectives.py --mesh 2x2 -b 1K -e 256K",
        "#all-reduce-of-a-row",
    ),
    "memory": Picture("python -m galaxy_mpi.estimate", "#memory-of-a-chip"),
    "decode": Picture(_RUN, "header"),
    "texts": Picture(f"{_RUN} --against float32", "#against-float32, #texts h2, #user-0, #user-1"),
}


def main() -> int:
    """Make all of them, or those that are named."""
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    names = sys.argv[1:] or list(PICTURES)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages: dict[str, Path] = {}
        for name in names:
            picture = PICTURES[name]
            page = pages.get(picture.command)
            if page is None:
                page = pages[picture.command] = Path(folder) / str(len(pages)) / "report.html"
                page.parent.mkdir()
                written(picture.command, page)
            with open_browser(dark=picture.dark, width=picture.width) as browser:
                show(browser, page, anchor=picture.anchor)
                png = picture_png(browser, picture.selector)
            path = FOLDER / f"{name}.png"
            path.write_bytes(smaller(png))
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KiB", flush=True)
    return 0


def written(command: str, page: Path) -> None:
    """Run a command with its page; the page shows the command as a reader would type it."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    subprocess.run(
        [*words, "--report", page.name], cwd=page.parent, check=True, capture_output=True
    )


def smaller(png: bytes) -> bytes:
    """Return a picture with few colours."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
