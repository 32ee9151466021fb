"""Command lines with arguments that nobody would type, up to where ranks would start to work."""

import json
import random
from dataclasses import replace
from pathlib import Path

from galaxy_mpi import accuracy, compare, decode, estimate, pareto, traffic, validate
from galaxy_mpi.engine.planning import make_plan

_VALUES = (
    "",
    "0",
    "1",
    "-1",
    "2",
    "64",
    "1000000000000",
    "9223372036854775808",
    "9" * 5000,
    "1e400",
    "nan",
    "inf",
    "0.5",
    "-0.0",
    "x",
    "8x4",
    "1x1",
    "99999x99999",
    "0x0",
    "1x9999999999",
    "0,0,2",
    "0,0,nan",
    "7x3",
    "1x32",
    "64x1",
    "3x20",
    "16",
    "0,0,row,3",
    "tt_transformers",
    "t3000",
    "7,3,column,1e5",
    "9,9,9",
    ",,,",
    "links=1,2",
    "users=" + "1," * 50 + "1",
    "=",
    "/dev/null/x",
    "/",
    "a" * 300,
    "a\udcff",
    "\u202e",
    "--",
    "-",
    "galaxy",
    "performance",
    "float32",
    "accuracy",
    "llama3-8b",
    "demo",
    "~nobody/x",
    "ring",
    "all",
    "off",
)

_COMMANDS = {
    "decode": decode.build_parser,
    "estimate": estimate.build_parser,
    "compare": compare.build_parser,
    "validate": validate.build_parser,
    "accuracy": accuracy.build_parser,
    "pareto": pareto.build_parser,
    "traffic": traffic.build_parser,
}


def damaged_words(_: bytes, chance: random.Random) -> bytes:
    """Return a command and its arguments as JSON."""
    command = chance.choice(list(_COMMANDS))
    actions = [a for a in _COMMANDS[command]()._actions if a.option_strings]
    words = []
    for _n in range(chance.choice((1, 1, 2, 3))):
        action = chance.choice(actions)
        words.append(chance.choice(action.option_strings))
        if action.nargs != 0:
            words.append(chance.choice(_VALUES))
    return json.dumps([command, *words]).encode()


def play_words(content: bytes, model: Path) -> None:
    """Parse, check and plan what the words ask for; nothing is computed of it."""
    command, *words = json.loads(content)
    arguments = _COMMANDS[command]().parse_args(words)
    if arguments.help:
        return
    if command == "decode":
        run = decode.run_config(arguments)
        if run.model == "demo":
            run = replace(run, model=str(model))
        if run.n_layers is None and not run.model.startswith("llama3"):
            make_plan(run)
    elif command == "estimate":
        if arguments.sweep:
            estimate.prepare_sweep(estimate.build_parser(), words, arguments)
        else:
            what_if = replace(estimate.what_if_of(arguments), layers=1, new_tokens=1)
            if what_if.programs.mesh.n_chips <= 64 and what_if.input_tokens <= 1000:
                assert what_if.report["device"]["decode_step_s"] > 0
                what_if.table()
    elif command == "compare":
        compare._prepare_timing(arguments)
    elif command == "traffic":
        traffic.traffic_of(arguments)
    elif command == "accuracy":
        accuracy.run_configs(arguments)
    elif command == "pareto":
        pareto.ParetoCommand(arguments)
