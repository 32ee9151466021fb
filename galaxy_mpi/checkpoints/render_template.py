"""Render chat templates in a separate process: ``python -I render_template.py < request``.

A template comes with a model's files and cannot be trusted: it may loop forever or exhaust memory.
It therefore runs here, with limits that this process sets before it reads the template. The module
imports nothing of the package, so that it starts quickly.

The request is a JSON object with ``path`` (where modules are found), ``source``, ``tokens`` and
``prompts``; the answer one with ``texts`` or ``error``.
"""

import json
import resource
import sys

from galaxy_mpi.json_values import JsonObject

CPU_S = 5
MEMORY_BYTES = 2**29
MOST_CHARACTERS = 2**26
"""Of all texts together."""


def limit() -> None:
    """Limit this process to what rendering needs."""
    for kind, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most))


def render(source: str, tokens: dict[str, str], prompts: list[str]) -> list[str]:
    """Return the text of a chat of one message for each prompt.

    Parameters
    ----------
    source : str
        Jinja.
    tokens : dict of str to str
        Special tokens that the template names.
    prompts : list of str
        Messages by the user.
    """
    from jinja2 import TemplateError  # imported after the limits are set
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(source)
    texts, n_characters = [], 0
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        text = template.render(messages=messages, add_generation_prompt=True, **tokens)
        n_characters += len(text)
        if n_characters > MOST_CHARACTERS:
            raise TemplateError(f"it makes texts of more than {MOST_CHARACTERS} characters")
        text.encode("utf-8")  # half of a surrogate pair is not text
        texts.append(text)
    return texts


def answer(request: JsonObject) -> dict[str, object]:
    """Return the texts that a request asks for, or what went wrong."""
    try:
        return {"texts": render(request["source"], request["tokens"], request["prompts"])}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES // 2**20} MiB of memory"}
    except Exception as error:  # a template may do anything that Jinja permits
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def main() -> None:
    """Answer one request."""
    limit()
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    json.dump(answer(request), sys.stdout)


if __name__ == "__main__":
    main()
