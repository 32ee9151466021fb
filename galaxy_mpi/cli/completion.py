"""Shell completion, generated from the parsers: ``source <(galaxy-mpi completion bash)``."""

import argparse
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.cli.subcommands import SUBCOMMANDS
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError

__all__ = ["build_parser", "main", "script"]

SHELLS = ("bash", "zsh", "fish")


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.completion",
        "Print a shell completion script. To use it: source <(galaxy-mpi completion bash)",
    )
    parser.usage = "%(prog)s [bash|zsh|fish]"
    parser.add_argument("shell", nargs="?", default="bash", help=", ".join(SHELLS))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.shell not in SHELLS:
            raise ConfigError(f"no shell {arguments.shell!r}; choose {', '.join(SHELLS)}")
        return lambda: print(script(arguments.shell))

    return run_alone(build_parser(), argv, prepare)


def script(shell: str) -> str:
    """Return the script for a shell to source.

    Parameters
    ----------
    shell : str
        One of ``SHELLS``.
    """
    return "\n".join(_fish() if shell == "fish" else _bash(is_zsh=shell == "zsh"))


def _options() -> Iterator[tuple[str, list[argparse.Action]]]:
    for each in SUBCOMMANDS:
        yield each.name, import_module(each.module).build_parser().named()


def _bash(*, is_zsh: bool) -> Iterator[str]:
    """Yield the lines of the script; zsh runs the one for bash."""
    if is_zsh:
        yield "autoload -U +X compinit && compinit"
        yield "autoload -U +X bashcompinit && bashcompinit"
    yield "_galaxy_mpi() {"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} known=""'
    yield '    case "${COMP_CWORD}:${COMP_WORDS[1]}" in'
    yield f'    1:*) known="{" ".join(each.name for each in SUBCOMMANDS)} --help --version" ;;'
    for name, actions in _options():
        words = [word for action in actions for word in action.option_strings]
        yield f'    *:{name}) known="{" ".join(words)}" ;;'
    yield "    esac"
    # Words that are not options are files, which the shell completes itself.
    yield '    [ "$COMP_CWORD" = 1 ] || [ "${word#-}" != "$word" ] || known=""'
    yield "    # shellcheck disable=SC2207"
    yield '    COMPREPLY=($(compgen -W "$known" -- "$word"))'
    yield "}"
    yield "complete -o default -F _galaxy_mpi galaxy-mpi"


def _fish() -> Iterator[str]:
    for each in SUBCOMMANDS:
        yield (
            f"complete -c galaxy-mpi -n __fish_use_subcommand -a {each.name} "
            f"-d {shlex.quote(each.summary)}"
        )
    for name, actions in _options():
        for action in actions:
            long = action.option_strings[-1].removeprefix("--")
            value = "" if action.nargs == 0 else " -r"
            yield (
                f"complete -c galaxy-mpi -n '__fish_seen_subcommand_from {name}' -l {long}{value} "
                f"-d {shlex.quote(action.help or '')}"
            )
