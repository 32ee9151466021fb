"""What was run: every setting and every constant of the machine."""

from collections.abc import Iterator, Mapping

from galaxy_mpi.json_values import Json, JsonView
from galaxy_mpi.report.parts import Facts, Part, Section

__all__ = ["configuration_section", "plain", "versions_text"]


def configuration_section(
    run: JsonView, settings: JsonView, *, more: tuple[Part, ...] = ()
) -> Section:
    """Return settings, formats, collectives and the machine.

    Parameters
    ----------
    run : mapping
        ``run`` of a JSON report, see docs/json.md.
    settings : mapping
        Name and value of each argument.
    more : tuple of Part
        Behind the settings.
    """
    parts: list[Part] = [Facts(_rows(settings), "Settings"), *more]
    for mode, ran in (run.get("collectives") or {}).items():
        parts.append(Facts(_rows(ran), f"Collectives of {mode}", is_folded=True))
    if run.get("machine"):
        title = f"Constants of the machine {run['machine']['name']}"
        parts.append(Facts(_rows(run["machine"]), title, is_folded=True))
    return Section("Configuration", parts)


def versions_text(run: JsonView) -> str:
    """Return the versions of what computes."""
    versions = run["versions"]
    blas = f" with {versions['blas']}" if "blas" in versions else ""  # reports of 0.1 have none
    return (
        f"galaxy_mpi {versions['galaxy_mpi']}, codec {versions['codec']}, numpy "
        f"{versions['numpy']}{blas}, Python {versions['python']}"
    )


def plain(value: Json) -> str:
    """Return a setting in words."""
    if value is None or value == [] or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def _rows(values: JsonView) -> list[tuple[str, str]]:
    return list(_flat(values))


def _flat(values: JsonView) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield name.replace("_", " "), plain(value)
