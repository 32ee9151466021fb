"""The page of `galaxy_mpi.decode`."""

from galaxy_mpi.engine.golden import Golden
from galaxy_mpi.engine.report import Report
from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.configuration import configuration_section, plain, versions_text
from galaxy_mpi.report.gather.device import device_facts, device_sections
from galaxy_mpi.report.gather.host import host_layer, host_sections
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.gather.texts import against_section, texts_section
from galaxy_mpi.report.parts import Page, Section
from galaxy_mpi.studies.against import Against
from galaxy_mpi.timing.device_run import DeviceRun
from galaxy_mpi.timing.estimator import Estimator

__all__ = ["decode_page"]


def decode_page(
    report: Report, against: Against | None = None, golden: Golden | None = None
) -> Page:
    """Return the page of a run.

    Parameters
    ----------
    report : Report
        Of a run with ``report_path``.
    against : Against, optional
        Of ``--against``.
    golden : Golden, optional
        Of ``--golden``.
    """
    run, seen = report.run, report.seen
    assert seen is not None, "the run has not looked at what pages show"
    sections, facts = list[Section](), list[tuple[str, str]]()
    figures = report.device_figures()
    if report.device is not None and figures is not None:
        facts = device_facts(figures)
        step = _shown_step(report.device)
        if step is not None:
            budget = report.device.budget(report.n_positions)
            host = host_layer(seen, step.layer)
            sections = device_sections(step, figures, budget, host)
    sections += host_sections(seen)
    if against is not None:
        sections.append(against_section(against))
    sections += [texts_section(report, against, golden), _configuration(report)]
    return Page(
        title=f"{run.model} on {run.mesh} chips",
        command=report.ran["argv"] or ["galaxy_mpi"],
        facts=[
            ("model", f"{run.model}, {report.model.n_layers} layers, dim {report.model.dim}"),
            ("machine, system", f"{run.machine}, {run.system_name}"),
            ("precision", report.precision),
            ("users, new tokens", f"{len(report.tokens)}, {sum(map(len, report.tokens))}"),
            ("choice of tokens", _sampling(report.ran["sampling"])),
            *facts,
            ("versions", versions_text(report.ran)),
        ],
        host_facts=_host_facts(report.host()),
        sections=sections,
    )


def _sampling(sampling: JsonView) -> str:
    if sampling["temperature"] == 0:
        return f"greedy, seed {sampling['seed']} not used"
    return ", ".join(f"{name.replace('_', ' ')} {plain(value)}" for name, value in sampling.items())


def _shown_step(device: DeviceRun) -> ShownStep | None:
    """Return the last decode step of those that a trace has; None if there was none."""
    if device.events.shown is None:
        return None
    number, positions = device.events.shown
    estimator = Estimator(device.programs, device.machine, slowness=device.slowness)
    name = f"decode step {number} of {device.events.n_steps}"
    return ShownStep(estimator, positions, device.slowness, name)


def _host_facts(host: JsonView) -> list[tuple[str, str]]:
    return [
        ("host: decode step", f"{host['decode_step_s'] * 1e3:.1f} ms, {host['steps']} steps"),
        ("host: tokens/s", f"{host['tokens_per_s']:.1f} (all users)"),
        ("host: time to first token", f"{host['time_to_first_token_s']:.2f} s (mean)"),
        ("host: prefill", f"{host['prefill_s']:.2f} s, {host['prefill_passes']} passes"),
        ("host: memory", f"{host['process_memory_bytes'] / 2**20:.0f} MiB, all ranks"),
    ]


def _configuration(report: Report) -> Section:
    return configuration_section(report.ran, report.ran["config"])
