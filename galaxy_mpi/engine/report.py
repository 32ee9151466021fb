"""What a run tells: JSON for machines, text for people. Seconds inside, units in every name."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galaxy_mpi import __version__
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.batch import EndReason
from galaxy_mpi.engine.memory import RankMemory
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.prefetch import PrefetchStats

__all__ = ["SCHEMA_VERSION", "Report", "StepTimes"]

SCHEMA_VERSION = 1


@dataclass
class StepTimes:
    """Host seconds of every step, and when each user's first token came."""

    step_s: list[float] = field(default_factory=list)
    n_new_tokens: list[int] = field(default_factory=list)
    """Tokens that each step generated; 0 while all users are still in their prompts."""
    first_token_s: dict[int, float] = field(default_factory=dict)

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return len(self.step_s)

    def add(self, step_s: float, users: list[int]) -> None:
        """Note a step and the users for whom it generated a token."""
        self.step_s.append(step_s)
        self.n_new_tokens.append(len(users))
        elapsed_s = sum(self.step_s)
        for user in users:
            self.first_token_s.setdefault(user, elapsed_s)


@dataclass(frozen=True)
class Report:
    """All that rank 0 knows at the end of a run. Lists ``collectives_s`` etc. are by rank."""

    run: RunConfig
    system: str
    model: LlamaConfig
    prompts: list[str]
    tokens: list[list[int]]
    text: list[str]
    ended: list[EndReason | None]
    times: StepTimes
    load_s: float
    collectives_s: list[float]
    prefetch: list[PrefetchStats]
    memory: list[RankMemory]

    def host(self) -> dict[str, Any]:
        """Return the figures of this computer, with the unit in each name.

        ``decode_step_s`` is the mean over all steps, split (mean over the ranks) into
        ``compute_s`` (arithmetic, packing, Python and waiting for the processor),
        ``collectives_s`` and ``prefetch_stall_s``. ``tokens_per_s`` counts the generated tokens
        over the steps that generated any; ``time_to_first_token_s`` is the mean over users, from
        the start of the first step.
        """
        times, n_ranks = self.times, len(self.collectives_s)
        n_steps = max(times.n_steps, 1)
        step_s = sum(times.step_s) / n_steps
        collectives_s = sum(self.collectives_s) / n_ranks / n_steps
        stall_s = sum(stats.stall_s for stats in self.prefetch) / n_ranks / n_steps
        generating_s = sum(s for s, n in zip(times.step_s, times.n_new_tokens, strict=True) if n)
        n_generating = sum(1 for n in times.n_new_tokens if n)
        first = [times.first_token_s[user] for user in sorted(times.first_token_s)]
        return {
            "decode_step_s": step_s,
            "decode_layer_s": step_s / self.model.n_layers,
            "compute_s": step_s - collectives_s - stall_s,
            "collectives_s": collectives_s,
            "prefetch_stall_s": stall_s,
            "prefetch_stalls": sum(stats.stalls for stats in self.prefetch),
            "prefetch_full_wait_s": sum(s.full_wait_s for s in self.prefetch) / n_ranks / n_steps,
            "prefetch_full_waits": sum(stats.full_waits for stats in self.prefetch),
            "tokens_per_s": sum(times.n_new_tokens) / generating_s if generating_s else 0.0,
            "tokens_per_s_per_user": n_generating / generating_s if generating_s else 0.0,
            "time_to_first_token_s": sum(first) / len(first) if first else 0.0,
            "time_to_first_token_by_user_s": first,
            "steps": times.n_steps,
            "load_s": self.load_s,
            "process_memory_bytes": sum(rank.process_bytes for rank in self.memory),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` writes; everything outside ``host`` is reproducible."""
        run, chip = self.run, self.memory[0]
        return {
            "schema_version": SCHEMA_VERSION,
            "galaxy_mpi": __version__,
            "model": run.model,
            "mesh": str(run.mesh),
            "system": self.system,
            "precision": run.precision,
            "prefetch": run.prefetch,
            "users": len(self.tokens),
            "tokens": self.tokens,
            "text": self.text,
            "ended": [reason.value if reason else None for reason in self.ended],
            "memory": {
                "weights_bytes_per_rank": chip.weights_bytes,
                "embedding_bytes_per_rank": chip.embedding_bytes,
                "kv_cache_bytes_per_rank": chip.kv_cache_bytes,
                "persistent_buffers_bytes_per_rank": chip.persistent_buffers_bytes,
                "unpacked_weights_bytes_per_rank": chip.unpacked_weights_bytes,
                "unpacked_weights_peak_bytes": max(s.peak_bytes for s in self.prefetch),
            },
            "host": self.host(),
        }

    def write_json(self, path: Path) -> None:
        """Write `to_dict`, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
            path.write_text(text, "utf-8")
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(text, "utf-8")
        draft.replace(path)

    def to_text(self, *, show_all: bool) -> str:
        """Return prompts with continuations and the summary table."""
        n_shown = len(self.prompts) if show_all else min(4, len(self.prompts))
        lines = []
        for user in range(n_shown):
            reason = self.ended[user]
            note = f"  [{reason.value}]" if reason and reason is not EndReason.LENGTH else ""
            lines += [f"[user {user}] {self.prompts[user]}|{self.text[user]}{note}", ""]
        if n_shown < len(self.prompts):
            lines += [f"... and {len(self.prompts) - n_shown} more users (--show-all)", ""]
        return "\n".join(lines + self._summary())

    def _summary(self) -> list[str]:
        host, chip, ms = self.host(), self.memory[0], 1e3
        step_s = host["decode_step_s"] or 1.0
        mib = 2**20

        def part(name: str) -> str:
            return f"{host[name] * ms:.1f} ms ({host[name] / step_s:.0%})"

        rows = [
            ("model", f"{self.run.model}, {self.model.n_layers} layers, dim {self.model.dim}"),
            ("mesh", f"{self.run.mesh}, {self.run.mesh.n_chips} ranks"),
            ("system, precision", f"{self.system}, {self.run.precision}"),
            ("users, new tokens", f"{len(self.tokens)}, {sum(map(len, self.tokens))}"),
            ("host: tokens/s", f"{host['tokens_per_s']:.1f} (all users)"),
            ("host: tokens/s/user", f"{host['tokens_per_s_per_user']:.2f}"),
            ("host: time to first token", f"{host['time_to_first_token_s']:.2f} s"),
            ("host: decode step", f"{step_s * ms:.1f} ms, {host['steps']} steps"),
            ("  compute", part("compute_s")),
            ("  collectives", part("collectives_s")),
            ("  prefetch stall", part("prefetch_stall_s")),
            ("memory per rank: weights", f"{chip.weights_bytes / mib:.2f} MiB packed"),
            ("  embedding", f"{chip.embedding_bytes / mib:.2f} MiB"),
            ("  KV cache", f"{chip.kv_cache_bytes / mib:.2f} MiB"),
            ("  persistent buffers", f"{chip.persistent_buffers_bytes / mib:.2f} MiB"),
            ("  unpacked weights, bound", f"{chip.unpacked_weights_bytes / mib:.2f} MiB"),
            ("memory of all ranks", f"{host['process_memory_bytes'] / mib:.0f} MiB (PSS)"),
        ]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows]
