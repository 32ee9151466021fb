"""The sections with prompts and texts, and with what another run would have done."""

from galaxy_mpi.engine.golden import Golden
from galaxy_mpi.engine.report import Report
from galaxy_mpi.report.parts import (
    Cell,
    Column,
    Facts,
    Part,
    Section,
    Table,
    Texts,
    Token,
    UserText,
)
from galaxy_mpi.studies.against import Against
from galaxy_mpi.studies.differences import Difference

__all__ = ["against_section", "texts_section"]

_MOST_TOKENS = 5000
"""Most tokens with probabilities, over all users: a page stays small enough to be sent."""


def texts_section(report: Report, against: Against | None, golden: Golden | None) -> Section:
    """Return what every user asked and got, with the probability of each token."""
    users, n_told = [], 0
    assert report.seen is not None
    for number, request in enumerate(report.requests):
        others = against.others[number] if against is not None else {}
        seen = report.seen.tokens[number]
        is_told = n_told + len(seen) <= _MOST_TOKENS
        n_told += len(seen)
        tokens = [
            Token(token.text, token.probability, token.best, others.get(at))
            for at, token in enumerate(seen)
            if is_told
        ]
        notes = []
        if others and against is not None:
            at = min(others)
            n_others = len(others)
            notes.append(
                f"{against.name} would choose {n_others} other tokens, first token {at + 1}"
            )
        if golden is not None:
            first = golden.first_different(number, request.generated)
            if first is not None:
                notes.append(f"differs from {golden.path} from token {first + 1} on")
        counts = f"{len(request.prompt)} tokens and {len(request.generated)} new"
        ended = f"{counts}, ended by {request.ended.value}" if request.ended else counts
        plain = "" if is_told else report.text[number]
        notes += [] if is_told else [f"probabilities of the first {_MOST_TOKENS} tokens only"]
        note = "; ".join(notes)
        users.append(UserText(number, report.prompts[number], tokens, ended, note, plain))
    text = (
        "The stronger the background of a token, the less probable it was. Probabilities are "
        "shares of the softmax over the whole vocabulary, before temperature, top-k and top-p."
    )
    if against is not None:
        text += f" Outlined tokens: after the same text, {against.name} would choose another one."
    return Section("Texts", [Texts(users)], text)


def against_section(against: Against) -> Section:
    """Return where the values of the other run depart."""
    found = against.differences
    figures = against.to_dict()
    facts = [
        ("tokens that it would choose too", f"{against.n_same} of {against.n_tokens}"),
        ("tensors that differ", f"{len(found.differing)} of {len(found.found)}"),
    ]
    parts: list[Part] = []
    if found.differing:
        facts.append(("first to differ", found.differing[0].where))
        worst = min(found.found, key=lambda one: one.pcc)
        facts.append(("departs most", f"{worst.where}, PCC {worst.pcc:.6f}"))
        below = found.first_below(figures["pcc"])
        facts.append((f"first with a PCC below {figures['pcc']}", below.where if below else "none"))
        for title, groups in (("op", found.by_op), ("layer", found.by_layer)):
            parts.append(_table(title, groups))
    text = (
        f"The run was repeated as {against.name} with the same tokens. Compared are the outputs of "
        f"all ops in the passes and steps that --capture-steps selects."
    )
    return Section(f"Against {against.name}", [Facts(facts), *parts], text)


def _table(title: str, groups: list[Difference]) -> Table:
    rows: list[list[Cell]] = []
    for worst in groups:
        layer = worst.to_dict()["layer"]
        name = worst.op if title == "op" else str(layer)
        rows.append([name, worst.pcc, worst.relative, worst.largest, worst.scale, worst.chip])
    columns = [
        Column(title),
        Column("least PCC", "", ".6f"),
        Column("relative error", "", ".2e"),
        Column("largest error", "", ".3g"),
        Column("of", "", ".3g"),
        Column("chip"),
    ]
    return Table(columns, rows, f"By {title}")
