"""The page of `galaxy_mpi.pareto`."""

from collections.abc import Sequence

from galaxy_mpi.json_values import Json, JsonView
from galaxy_mpi.report.gather.configuration import configuration_section, versions_text
from galaxy_mpi.report.parts import Bars, Cell, Column, Curves, Page, Section, Table

__all__ = ["pareto_page"]

Points = Sequence[JsonView]  # of the JSON


def pareto_page(content: JsonView) -> Page:
    """Return the page of a search.

    Parameters
    ----------
    content : mapping
        What ``--json`` writes.
    """
    run, target, reference = content["run"], content["target"], content["reference"]
    points = sorted(content["points"], key=lambda point: point["decode_step_s"])
    answer = None if content["answer"] is None else content["points"][content["answer"]]
    facts = [
        ("target", f"{target['mesh']}, {target['machine']}"),
        ("users, tokens", f"{target['users']}, {target['input_tokens']} in, "
         f"{target['new_tokens']} new"),
        ("accuracy", f"{reference['positions']} positions on a {content['mesh']} mesh, against "
         f"float32"),
        ("measured", f"{len(points)} formats in {content['passes']} passes"),
        ("float32", f"perplexity {reference['perplexity']:.3f}"),
        ("device model", f"+-{target['decode_step_s_margin']:.0%}"),
        ("versions", versions_text(run)),
    ]  # fmt: skip
    if content["targets"]:
        met = "nothing measured meets it"
        if answer is not None:
            met = f"{answer['decode_step_s'] * 1e6:.2f} us: {_formats_text(answer['formats'])}"
        facts.insert(0, (", ".join(content["targets"]), met))
    settings = {name: content[name] for name in ("model", "mesh", "system", "tokens", "metric")}
    settings |= {f"target {name}": value for name, value in target.items()}
    return Page(
        title=f"{content['model']}: accuracy against device time",
        command=run["argv"],
        facts=facts,
        sections=[
            _front_section(points, content["metric"], answer),
            _formats_section(points, answer),
            configuration_section(run, settings),
        ],
    )


def _front_section(points: Points, metric: str, answer: JsonView | None) -> Section:
    scale, unit = (100.0, "%") if metric.startswith("top") else (1.0, "")

    def place(point: JsonView) -> tuple[float, float]:
        return point["decode_step_s"] * 1e6, scale * point[metric]

    front = [point for point in points if point["is_on_front"]]
    groups: dict[str, list[JsonView]] = {
        "measured": [point for point in points if not point["is_on_front"]],
        "front": front,
    }
    groups |= {point["name"]: [point] for point in points if point["name"]}
    if answer is not None:
        groups["answer to --target"] = [answer]
    curves = {name: [place(point) for point in group] for name, group in groups.items() if group}
    labels = {
        name: [_formats_text(point["formats"]) for point in group]
        for name, group in groups.items()
        if group
    }
    rows: list[list[Cell]] = [
        [
            point["decode_step_s"] * 1e6,
            point["time_to_first_token_s"] * 1e3,
            point["top1"],
            point["top5"],
            point["pcc"],
            point["perplexity"],
            point["dram_bytes"] / 2**20,
            ", ".join(_words(point, answer)),
            _formats_text(point["formats"]),
        ]
        for point in points
    ]
    columns = [
        Column("decode step", "us", ".2f"),
        Column("first token", "ms", ".3f"),
        Column("top-1", "", ".1%"),
        Column("top-5", "", ".1%"),
        Column("PCC", "", ".5f"),
        Column("perplexity", "", ".3f"),
        Column("DRAM of a chip in a step", "MiB", ".2f"),
        Column("what"),
        Column("formats"),
    ]
    chart = Curves(
        title=f"{metric} against the decode step; the front is joined",
        x="decode step, us of device time",
        y=f"{metric}, {unit}" if unit else metric,
        curves=curves,
        table=Table(columns, rows, "All that was measured"),
        labels=labels,
        joined=("front",),
    )
    text = (
        "Nothing that was measured is both faster and more accurate than a point of the front. "
        "Hover over a point to see its formats."
    )
    return Section("Front", [chart], text)


def _words(point: JsonView, answer: JsonView | None) -> list[str]:
    words = ["front"] if point["is_on_front"] else []
    words += [point["name"]] if point["name"] else []
    return words + (["answer"] if point is answer else [])


def _formats_section(points: Points, answer: JsonView | None) -> Section:
    """Return which format each tensor group has on the front: a row a point."""
    front = [point for point in points if point["is_on_front"]]
    if answer is not None and answer not in front:
        front.append(answer)
    groups = list(front[0]["formats"])
    rows: list[list[Cell]] = [
        [
            point["decode_step_s"] * 1e6,
            point["top1"],
            *(_format_text(point["formats"][group]) for group in groups),
        ]
        for point in front
    ]
    columns = [
        Column("decode step", "us", ".2f"),
        Column("top-1", "", ".1%"),
        *(Column(group.replace("_", " ")) for group in groups),
    ]
    names = [f"{point['decode_step_s'] * 1e6:.2f} us" for point in front]
    chart = Bars(
        title="Memory of a chip on the front",
        unit="MiB",
        names=names,
        series={
            "weights": [point["weights_bytes"] / 2**20 for point in front],
            "KV cache": [point["kv_cache_bytes"] / 2**20 for point in front],
        },
        table=Table(columns, rows, "Formats on the front"),
        is_stacked=True,
    )
    return Section("Formats", [chart])


def _format_text(value: Json) -> str:
    """Return a group's format; where layers differ, runs of alike ones."""
    if isinstance(value, str):
        return value
    runs: list[list[Json]] = []
    for name in value:
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return ", ".join(f"{n} x {name}" for name, n in runs)


def _formats_text(formats: JsonView) -> str:
    return "; ".join(f"{group} {_format_text(value)}" for group, value in formats.items())
