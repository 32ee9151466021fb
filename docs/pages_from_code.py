"""Pages of the documentation site that are made from code, and links to files outside ``docs/``.

The command line is read from the parsers and the reference from docstrings. ``ARCHITECTURE.md`` and
its neighbours at the top of the repository become pages as they are.
"""

import argparse
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

from galaxy_mpi.cli import SUBCOMMANDS

__all__ = ["command_line", "reference", "rewrite_links", "write_pages"]

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PROJECT = ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "NAMES", "RELEASING")
"""Pages at the top of the repository."""

MODULES = {
    "For scripts": ("generator", "engine", "config", "errors", "arrays"),
    "Systems and ops": ("systems", "program", "systems.ops.base"),
    "Models": ("models", "checkpoints", "kernels", "dtypes", "prefetch"),
    "Collectives": ("ccl", "mesh"),
    "Device time": ("timing",),
    "Pages": ("report",),
}
"""Modules of the reference; each documents the names in its ``__all__``."""

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def write_pages(folder: Path) -> None:
    """Write all generated pages.

    Parameters
    ----------
    folder : Path
        The pages go to its subfolder ``generated``.
    """
    place = folder / "generated"
    place.mkdir(exist_ok=True)
    pages = {"commands": command_line(), **reference()}
    for name in PROJECT:
        pages[name] = rewrite_links((ROOT / f"{name}.md").read_text("utf-8"), ROOT, place)
    for name, text in pages.items():
        path = place / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:  # Sphinx rereads what is newer
            path.write_text(text, "utf-8")


def link_out(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrite the links of a page to files outside ``docs/``; called by Sphinx."""
    if not page.startswith("generated/"):
        place = Path(app.srcdir, page).parent
        source[0] = rewrite_links(source[0], place, place)


def rewrite_links(text: str, base: Path, place: Path) -> str:
    """Return Markdown whose relative links work on the site.

    Pages link to pages, files are offered for download, and a folder becomes plain text.

    Parameters
    ----------
    text : str
    base : Path
        Folder that the links are relative to.
    place : Path
        Folder of the page on the site.
    """

    def rewritten(link: re.Match[str]) -> str:
        words, target, anchor = link[1], (base / link[2]).resolve(), link[3] or ""
        if target.is_dir():
            return words
        if target.parent == ROOT and target.stem in PROJECT:
            target = DOCS / "generated" / target.name
        elif target.name == "README.md" and target.parent == ROOT:
            target = DOCS / "index.md"
        return f"[{words}]({os.path.relpath(target, place)}{anchor})"

    return LINK.sub(rewritten, text)


def command_line() -> str:
    """Return the page of all subcommands with their options."""
    lines = [
        "# Command line",
        "",
        "Made from the parsers: what `galaxy-mpi COMMAND --help` says.",
        "",
    ]
    for each in SUBCOMMANDS:
        parser = import_module(each.module).build_parser()
        lines += [f"## galaxy-mpi {each.name}", "", *_cells(parser.description or ""), ""]
        for group in parser._action_groups:  # argparse has no public list of them
            rows = list(_rows(group._group_actions))
            if rows:
                title = "" if group.title in ("options", "positional arguments") else group.title
                lines += [f"| {title or 'option'} | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _rows(actions: list[argparse.Action]) -> Iterator[str]:
    for action in actions:
        words = ", ".join(action.option_strings) or action.metavar or action.dest
        if action.option_strings and action.nargs != 0:
            words += f" {action.metavar or action.dest.upper()}"
        (meaning,) = _cells(argparse.HelpFormatter("")._expand_help(action) if action.help else "")
        if (
            action.default not in (None, False, "", [])
            and "default" not in meaning
            and action.nargs != 0
        ):
            default = str(action.default).replace(str(Path.home()), "~")
            meaning += f" (default: `{default}`)"
        yield f"| {'`' + words.replace('|', chr(92) + '|') + '`'} | {meaning} |"


def _cells(text: str) -> list[str]:
    return [re.sub(r"([|<>*_])", r"\\\1", text)]


def reference() -> dict[str, str]:
    """Return the pages of the reference: an index, and a page for each public module."""
    index = ["# Reference", "", "The public names of the package, from their docstrings.", ""]
    pages = {}
    for title, modules in MODULES.items():
        index += [f"## {title}", ""]
        listed = []
        for module in modules:
            name = f"galaxy_mpi.{module}"
            sentence = (import_module(name).__doc__ or "").partition("\n")[0]
            pages[f"api.{module}"] = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            index += [f"* [{name}](api.{module}.md): {_cells(sentence)[0]}"]
            listed.append(f"api.{module}")
        index += ["", "```{toctree}", ":hidden:", *listed, "```", ""]
    return {"reference": "\n".join(index), **pages}
