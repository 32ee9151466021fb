"""Recipes for several hosts that no test can run here: their structure, and what they call.

``MPIJOB`` restates what the operator's schema demands of the fields that the manifest uses; unknown
fields are an error, as with ``kubectl apply --validate=strict``. Source: kubeflow/mpi-operator,
manifests/base/kubeflow.org_mpijobs.yaml, commit 013fa15b (v2beta1).
"""

import copy
import re
from pathlib import Path

import pytest
import yaml

from galaxy_mpi.decode import build_parser

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "launch" / "kubernetes" / "mpijob.yaml"
COMPOSE = ROOT / "launch" / "compose" / "compose.yaml"

QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")

STRINGS = [str]
CONTAINER = {
    "name!": str,
    "image!": str,
    "command": STRINGS,
    "args": STRINGS,
    "securityContext": {"runAsUser": int},
    "resources": {"limits": {"cpu": QUANTITY, "memory": QUANTITY}},
}
REPLICA = {
    "replicas": int,
    "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "template!": {"spec!": {"containers!": [CONTAINER]}},
}
MPIJOB = {
    "apiVersion!": ("kubeflow.org/v2beta1",),
    "kind!": ("MPIJob",),
    "metadata!": {"name!": re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")},
    "spec!": {
        "mpiImplementation": ("OpenMPI", "Intel", "MPICH"),
        "slotsPerWorker": int,
        "sshAuthMountPath": str,
        "runPolicy": {
            "cleanPodPolicy": ("None", "Running", "All"),
            "backoffLimit": int,
            "ttlSecondsAfterFinished": int,
            "suspend": bool,
        },
        "mpiReplicaSpecs!": {"Launcher!": REPLICA, "Worker": REPLICA},
    },
}


def errors(value, schema, where=""):
    """Yield what is wrong with a value; names that end in "!" must be there."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        known = {name.rstrip("!"): each for name, each in schema.items()}
        yield from (f"{where}.{name} is unknown" for name in value if name not in known)
        for name in schema:
            if name.endswith("!") and name[:-1] not in value:
                yield f"{where}.{name[:-1]} is missing"
        for name in known.keys() & value.keys():
            yield from errors(value[name], known[name], f"{where}.{name}")
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{where} is no list"
            return
        for place, each in enumerate(value):
            yield from errors(each, schema[0], f"{where}[{place}]")
    elif isinstance(schema, tuple):
        if value not in schema:
            yield f"{where} is {value!r}"
    elif isinstance(schema, re.Pattern):
        if not isinstance(value, (str, int)) or schema.fullmatch(str(value)) is None:
            yield f"{where} is {value!r}"
    elif type(value) is not schema:
        yield f"{where} is {value!r}, no {schema.__name__}"


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load(MANIFEST.read_text())


def container(manifest, role):
    return manifest["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]["containers"][0]


def test_the_manifest_is_an_mpijob(manifest):
    assert list(errors(manifest, MPIJOB)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "slotsPerWorker"), "16", ".spec.slotsPerWorker is '16', no int"),
        (("spec", "slots"), 16, ".spec.slots is unknown"),
        (("kind",), "Job", ".kind is 'Job'"),
        (("spec", "runPolicy", "cleanPodPolicy"), "running", ".spec.runPolicy.cleanPodPolicy is"),
        (("spec", "mpiReplicaSpecs"), {}, ".spec.mpiReplicaSpecs.Launcher is missing"),
    ],
)
def test_the_rules_find(path, value, said, manifest):
    broken = copy.deepcopy(manifest)
    inner = broken
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert [found for found in errors(broken, MPIJOB) if found.startswith(said)]


def test_the_manifest_has_a_slot_for_each_rank(manifest):
    spec = manifest["spec"]
    words = container(manifest, "Launcher")["args"]
    ranks = int(words[words.index("-n") + 1])
    workers = spec["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert ranks == workers * spec["slotsPerWorker"]
    assert words[words.index("--map-by") + 1] == f"ppr:{spec['slotsPerWorker']}:node"
    rows, cols = build_parser().get_default("mesh").split("x")
    assert ranks == int(rows) * int(cols)


def test_ssh_of_all_recipes_is_where_the_image_looks(manifest):
    image = (MANIFEST.parent / "Dockerfile").read_text()
    folder = manifest["spec"]["sshAuthMountPath"]
    assert f"HostKey {folder}/id_rsa" in image
    worker = container(manifest, "Worker")
    command = [*worker["command"], *worker["args"]]
    assert f"CMD {command}".replace("'", '"') in image
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert all(service["volumes"] == [f"ssh:{folder}"] for service in services.values())
    assert {s["image"] for s in services.values()} == {worker["image"]}


def test_compose_starts_as_many_ranks_as_its_mesh_has_chips():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    words = services["host0"]["command"].split()
    slots = dict(each.split(":") for each in words[words.index("--host") + 1].split(","))
    assert set(slots) == {s["hostname"] for s in services.values() if "hostname" in s}
    rows, cols = words[words.index("--mesh") + 1].split("x")
    assert int(words[words.index("-n") + 1]) == sum(map(int, slots.values()))
    assert int(rows) * int(cols) == sum(map(int, slots.values()))


def test_the_batch_script_asks_for_a_task_for_each_chip():
    text = (ROOT / "launch" / "slurm" / "galaxy.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    rows, cols = build_parser().get_default("mesh").split("x")
    assert int(asked["ntasks"]) == int(rows) * int(cols)
    assert int(asked["nodes"]) * int(asked["ntasks-per-node"]) == int(asked["ntasks"])
