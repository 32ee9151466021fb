"""The report of a run, as JSON and files. Seconds inside; names end with the unit.

As text for people: `galaxy_mpi.engine.report_text`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi import __version__
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.latency import Latency
from galaxy_mpi.engine.memory import RankMemory
from galaxy_mpi.engine.mode import ModeTotals
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.seen import Seen
from galaxy_mpi.engine.times import RunTimes
from galaxy_mpi.files import write_all
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.program import Choice
from galaxy_mpi.timing.bands import Conditions, bands_of
from galaxy_mpi.timing.device_run import DeviceRun
from galaxy_mpi.timing.times import DeviceTimes
from galaxy_mpi.timing.trace import Trace

__all__ = ["SCHEMA_VERSION", "Report"]

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Report:
    """Everything that rank 0 knows at the end of a run. Lists such as ``decode`` are by rank."""

    run: RunConfig
    precision: str
    """Its name."""
    model: LlamaConfig
    prompts: list[str]
    requests: list[Request]
    text: list[str]
    times: RunTimes
    device: DeviceRun | None
    """None for a precision that the device does not have."""
    host_trace: Trace | None
    decode: list[ModeTotals]
    prefill: list[ModeTotals]
    memory: list[RankMemory]
    ran: JsonObject
    """What was run, see `galaxy_mpi.engine.ran`."""
    is_interrupted: bool = False
    """Whether the run ended before all users did; then figures are those of one process."""
    seen: Seen | None = None
    """What only report pages show; None for a run without one."""

    @property
    def tokens(self) -> list[list[int]]:
        """What was generated for each prompt."""
        return [request.generated for request in self.requests]

    def host(self) -> JsonObject:
        """Return the host figures, with the unit in each name.

        ``decode_step_s`` is the mean over all steps, split (mean over the ranks) into
        ``compute_s`` (arithmetic, packing, Python and waiting for the processor),
        ``collectives_s`` and ``prefetch_stall_s``. ``tokens_per_s`` counts the tokens of decode
        steps over their time. ``time_to_first_token_s`` is the mean over users, from the start of
        the run's first pass, including waiting for a place; None for a user without a token.
        """
        times, n_ranks = self.times, len(self.memory)
        n_steps, steps_s = max(times.n_steps, 1), sum(times.step_s)
        step_s, prefill_s = steps_s / n_steps, sum(times.prefill_s)
        collectives_s = sum(mode.collectives_s for mode in self.decode) / n_ranks / n_steps
        stats = [mode.prefetch for mode in self.decode]
        stall_s = sum(s.stall_s for s in stats) / n_ranks / n_steps
        first = times.first_token_s
        return {
            "decode_step_s": step_s,
            "decode_layer_s": step_s / self.model.n_layers,
            "compute_s": step_s - collectives_s - stall_s,
            "collectives_s": collectives_s,
            "prefetch_stall_s": stall_s,
            "prefetch_stalls": sum(s.stalls for s in stats),
            "prefetch_full_wait_s": sum(s.full_wait_s for s in stats) / n_ranks / n_steps,
            "prefetch_full_waits": sum(s.full_waits for s in stats),
            "tokens_per_s": times.n_step_tokens / steps_s if steps_s else 0.0,
            "tokens_per_s_per_user": times.n_steps / steps_s if steps_s else 0.0,
            "steps": times.n_steps,
            "prefill_s": prefill_s,
            "prefill_passes": len(times.prefill_s),
            "prefill_tokens_per_s": times.n_prefill_tokens / prefill_s if prefill_s else 0.0,
            "prefill_collectives_s": sum(m.collectives_s for m in self.prefill) / n_ranks,
            "mode_switches": len(times.switch_s),
            "mode_switch_s": sum(times.switch_s),
            "time_to_first_token_s": sum(first.values()) / len(first) if first else 0.0,
            "time_to_first_token_by_user_s": [first.get(r.number) for r in self.requests],
            "load_s": times.load_s,
            "collectives_memory_bytes_per_chip": self.memory[0].collectives_bytes,
            "process_memory_bytes": sum(rank.process_bytes for rank in self.memory),
            **self.host_latency.to_dict(),
        }

    @property
    def host_latency(self) -> Latency:
        """What users waited for, in host time."""
        times, counts = self.times, [len(tokens) for tokens in self.tokens]
        first, last = times.first_token_s, times.last_token_s
        return Latency(counts, times.queue_s, first, last, times.total_s)

    def device_latency(self, times: DeviceTimes) -> Latency:
        """Return what users waited for, in device time."""
        counts = [len(tokens) for tokens in self.tokens]
        first, last = times.first_token_s, times.last_token_s
        return Latency(counts, times.queue_s, first, last, times.now_s)

    def to_dict(self) -> JsonObject:
        """Return what ``--json`` writes; see docs/json.md.

        Everything outside ``host`` and ``run`` is reproducible.
        """
        run, chip = self.run, self.memory[0]
        peak = max(mode.prefetch.peak_bytes for mode in self.decode)
        return {
            "schema_version": SCHEMA_VERSION,
            "galaxy_mpi": __version__,
            "run": self.ran,
            "model": run.model,
            "mesh": str(run.mesh),
            "system": run.system_name,
            "precision": self.precision,
            "prefetch": run.prefetch,
            "prefix_caching": run.prefix_caching,
            "users": len(self.requests),
            "tokens": self.tokens,
            "text": self.text,
            "interrupted": self.is_interrupted,
            "ended": [r.ended.value if r.ended else None for r in self.requests],
            "prompt_tokens": [len(r.prompt) for r in self.requests],
            "cached_tokens": [r.n_cached for r in self.requests],
            "padding": run.layout(self.model).padding,
            "memory": {
                "weights_bytes_per_rank": chip.weights_bytes,
                "embedding_bytes_per_rank": chip.embedding_bytes,
                "kv_cache_bytes_per_rank": chip.kv_cache_bytes,
                "kv_cache_reserved_bytes_per_rank": chip.kv_cache_reserved_bytes,
                "persistent_buffers_bytes_per_rank": chip.persistent_buffers_bytes,
                "unpacked_weights_bytes_per_rank": chip.unpacked_weights_bytes,
                "unpacked_weights_peak_bytes": peak,
            },
            "device": self.device_figures(),
            "host": self.host(),
        }

    def device_figures(self) -> JsonObject | None:
        """Return the device figures; None for formats that the device does not have."""
        return None if self.device is None else self._device(self.device)

    def _device(self, device: DeviceRun) -> JsonObject:
        times = device.times
        first = [times.first_token_s.get(request.number) for request in self.requests]
        figures = {
            "machine": self.run.machine,
            "time_to_first_token_by_user_s": first,
            "memory": device.budget(self.n_positions).to_dict(),
            "stragglers": device.stragglers,
        }
        found = times.to_dict() | figures | self.device_latency(times).to_dict()
        return found | bands_of(found, self._conditions())

    def _conditions(self) -> Conditions:
        """Return what the error bands of device time depend on."""
        run = self.run
        machine, is_machine_changed = run.emulated_machine.published_as(run.machine)
        changed = (run.n_layers, run.optimizations, run.formats, run.circular_buffer_bytes,
                   run.collectives, run.slow_chips, run.slow_links, is_machine_changed,
                   run.layout(self.model).key)  # fmt: skip
        return Conditions(
            system=run.system_name,
            machine=machine,
            mesh=str(run.mesh),
            dim=self.model.dim,
            hidden_dim=self.model.hidden_dim,
            n_layers=self.model.n_layers,
            n_tokens=max(len(request.prompt) for request in self.requests),
            is_changed=any(changed) or not run.prefetch,
        )

    @property
    def n_positions(self) -> int:
        """Final number of positions of the longest user."""
        return max(len(r.prompt) + len(r.generated) for r in self.requests)

    def to_json(self, **more: Json) -> str:
        """Return `to_dict` as text, with additional entries."""
        return json.dumps(self.to_dict() | more, indent=2, ensure_ascii=False) + "\n"

    def missed(self) -> list[str]:
        """Return a line for each choice of passes and steps of which none has run."""
        run, n_passes, n_steps = self.run, len(self.times.prefill_s), self.times.n_steps
        choices = [run.capture] if run.capture_path is not None else []
        if run.trace_steps is not None:
            choices.append(Choice(steps=run.trace_steps, option="--trace-steps"))
        return [
            f"{choice.option} {choice.steps} names nothing that ran; this run has had passes up "
            f"to p{n_passes} and steps up to {n_steps}"
            for choice in choices
            if not choice.names_any(n_passes, n_steps)
        ]

    def write_files(self, page: str | None = None, **more: Json) -> None:
        """Write the requested files, each whole or not at all.

        Parameters
        ----------
        page : str, optional
            What ``--report`` writes.
        **more
            Additional entries of ``--json``.

        Raises
        ------
        ConfigError
            If one cannot be written; the others are still written.
        """
        run, device = self.run, self.device
        files: list[tuple[Path | None, str | bytes]] = [(run.json_path, self.to_json(**more))]
        if self.host_trace is not None and run.host_trace_path is not None:
            files.append((run.host_trace_path, self.host_trace.for_file(run.host_trace_path)))
        if device is not None and run.trace_path is not None:
            files.append((run.trace_path, device.trace.for_file(run.trace_path)))
        if device is not None and run.profile_path is not None:
            files.append((run.profile_path, device.op_report_csv()))
        if page is not None:
            files.append((run.report_path, page))
        write_all(files)
