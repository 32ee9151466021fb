"""The report of a run as text: what was run, texts, a table of users, and the summary."""

from galaxy_mpi.engine.ran import ran_rows
from galaxy_mpi.engine.report import Report
from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.json_values import JsonView
from galaxy_mpi.output import command_line, folded, named_lines, plural
from galaxy_mpi.timing.summary import NO_STEP, budget_rows, device_rows, op_table, straggler_rows

__all__ = ["report_text"]

N_SHOWN = 4
"""Users whose texts are shown unless all are asked for."""


def report_text(report: Report, *, show_all: bool, has_texts: bool = True) -> str:
    """Return what was run, prompts with generated text, a table of users, and the summary.

    Parameters
    ----------
    report : Report
    show_all : bool
        All users, not the first four.
    has_texts : bool
        Whether to include generated text, which may have been printed already.
    """
    prompts = report.prompts
    n_shown = len(prompts) if show_all else min(N_SHOWN, len(prompts))
    lines = [*_ran(report.ran), ""]
    if report.is_interrupted:
        lines = ["interrupted: not all users have ended", "", *lines]
    for user in range(n_shown if has_texts else 0):
        reason = report.requests[user].ended
        note = f"  [{reason.value}]" if reason and reason is not EndReason.LENGTH else ""
        lines += [f"[user {user}] {prompts[user]}|{report.text[user]}{note}", ""]
    if n_shown < len(prompts):
        lines += [f"... and {len(prompts) - n_shown} more users (--show-all)", ""]
    return "\n".join([*lines, *_users(report, n_shown), "", *_summary(report)])


def _ran(ran: JsonView) -> list[str]:
    """Return what was run; the command as it can be given to a shell again."""
    rows = [folded(f"{name:<13}{value}", " " * 13) for name, value in ran_rows(ran)]
    if not ran["argv"]:
        return rows
    program, *words = ran["argv"]
    words = ["galaxy-mpi", program.removeprefix("galaxy_mpi."), *words]
    return [command_line(words, f"{'command':<13}"), *rows]


def _users(report: Report, n_shown: int) -> list[str]:
    """Return a row for each user that is shown."""
    rows = [["user", "prompt tokens", "cached", "new tokens", "host: time to first token"]]
    for request in report.requests[:n_shown]:
        first_s = report.times.first_token_s.get(request.number)
        shown = "-" if first_s is None else f"{first_s:.2f} s"
        counts = (request.number, len(request.prompt), request.n_cached, len(request.generated))
        rows.append([*map(str, counts), shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _layout(report: Report) -> list[tuple[str, str]]:
    """Return rows for a user's layout, and for padding with its cost."""
    layout = report.run.layout(report.model)
    rows = [("layout", type(layout).__name__)] if layout.key else []
    if layout.padding:
        cost = f"matmul weights grow {layout.overhead:.2f} x"
        rows.append(("padded", f"{', '.join(layout.padding)}; {cost}"))
    return rows


def _summary(report: Report) -> list[str]:
    """Return name and value of each figure, then the table of ops."""
    host, chip, ms = report.host(), report.memory[0], 1e3
    step_s = host["decode_step_s"] or 1.0
    mib = 2**20

    def part(name: str) -> str:
        return f"{host[name] * ms:.1f} ms ({host[name] / step_s:.0%})"

    rates = [
        ("host: tokens/s", f"{host['tokens_per_s']:.1f} (all users)"),
        ("host: tokens/s/user", f"{host['tokens_per_s_per_user']:.2f}"),
    ]
    step = [
        ("host: decode step", f"{step_s * ms:.1f} ms, {plural(host['steps'], 'step')}"),
        ("  compute", part("compute_s")),
        ("  collectives", part("collectives_s")),
        ("  prefetch stall", part("prefetch_stall_s")),
    ]
    rows = [
        ("model", f"{report.run.model}, {report.model.n_layers} layers, dim {report.model.dim}"),
        ("mesh", f"{report.run.mesh}, {plural(report.run.mesh.n_chips, 'chip')}"),
        *_layout(report),
        ("system, precision", f"{report.run.system_name}, {report.precision}"),
        ("users, new tokens", f"{len(report.tokens)}, {sum(map(len, report.tokens))}"),
        *(rates if host["steps"] else []),
        ("host: time to first token", f"{host['time_to_first_token_s']:.2f} s (mean)"),
        (
            "host: prefill",
            f"{host['prefill_s']:.2f} s, {plural(host['prefill_passes'], 'pass', 'passes')}, "
            f"{host['prefill_tokens_per_s']:.0f} prompt tokens/s",
        ),
        *report.host_latency.rows("host"),
        *(step if host["steps"] else [("host: decode step", NO_STEP)]),
        ("host: memory, all ranks", f"{host['process_memory_bytes'] / mib:.0f} MiB (PSS)"),
        ("host: memory, rank 0", ""),
        ("  packed weights", f"{chip.weights_bytes / mib:.2f} MiB"),
        ("  embedding", f"{chip.embedding_bytes / mib:.2f} MiB"),
        (
            "  KV cache",
            f"{chip.kv_cache_bytes / mib:.2f} MiB used, "
            f"{chip.kv_cache_reserved_bytes / mib:.0f} MiB reserved",
        ),
        ("  collectives", f"{chip.collectives_bytes / mib:.2f} MiB"),
        ("  unpacked weights", f"up to {chip.unpacked_weights_bytes / mib:.2f} MiB"),
    ]
    table: list[str] = []
    figures = report.device_figures()
    if report.device is not None and figures is not None:
        place = next(n for n, (name, _) in enumerate(rows) if name == "users, new tokens")
        rows[place + 1 : place + 1] = [
            *device_rows(figures),
            *report.device_latency(report.device.times).rows("device"),
            *straggler_rows(
                figures["stragglers"], figures["decode_step_s"], report.device.slowness
            ),
        ]
        rows += budget_rows(report.device.budget(report.n_positions))
        table = ["", *op_table(figures, most=8)] if figures["steps"] else []
    return [*named_lines(rows), *table]
