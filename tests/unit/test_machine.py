"""Machine profiles: what is read, taken and refused."""

from pathlib import Path

import pytest
import yaml

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.studies.published_times import published_times
from galaxy_mpi.timing import MACHINES, Machine
from galaxy_mpi.timing.machine import read_constants
from galaxy_mpi.timing.published import CALIBRATION

GALAXY = Machine.load("wormhole_galaxy_6u")


def profile(tmp_path, change):
    """Return the path of the Galaxy's profile with something changed."""
    name = f"{CALIBRATION.parent.parent}/machines/wormhole_galaxy_6u.yaml"
    with open(name, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    change(content)
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", MACHINES)
def test_every_constant_says_its_unit_and_where_it_is_from(name):
    published = {datum.name for datum in published_times()}
    for key, constant in read_constants(name).items():
        assert constant.unit == read_constants("wormhole_galaxy_6u")[key].unit, key
        assert constant.source, key
        if constant.fitted:
            assert constant.low < constant.value < constant.high, key
        rest = constant.fitted.removesuffix(" alone").removesuffix("its prior")
        # Names may have commas in them, and begin as others do.
        for what in sorted(published, key=len, reverse=True):
            rest = rest.replace(what, "")
        assert not rest.strip(", "), f"{key} is fitted to {rest}"


def test_a_profile_from_a_file_is_taken_as_it_is(tmp_path):
    path = profile(tmp_path, lambda c: c["constants"]["links"].update(value=3))
    assert Machine.load(path).links == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["constants"].pop("links"), "missing links$"),
        (
            lambda c: c["constants"].update(link={"value": 1}),
            "no constant 'link'; .* mean links[?]$",
        ),
        (
            lambda c: c["constants"].update(speed={"value": 1}),
            "yaml: no constant 'speed'; compare .*wormhole_galaxy_6u.yaml$",
        ),
        (
            lambda c: c["constants"]["dram_bytes_per_s"].update(value=125, unit="GB/s"),
            "dram_bytes_per_s has unit 'GB/s'; write it in bytes/s",
        ),
        (
            lambda c: c["constants"]["links"].update(value="four"),
            "links needs a whole number from 1 to 1048576",
        ),
        (
            lambda c: c["constants"]["links"].update(value=-1),
            "links needs a whole number .* got -1",
        ),
        (
            lambda c: c["constants"]["links"].update(value=2.5),
            "links needs a whole number .* got 2.5",
        ),
        (lambda c: c["constants"]["launch_s"].update(value=0), "launch_s needs a value above 0"),
        (lambda c: c["constants"].update({7: {"value": 1}}), "no constant 7; compare"),
        (lambda c: c["constants"].update(launch_s=[1]), "launch_s needs a value above 0, got None"),
        (lambda c: c["constants"]["links"].update(unit=[1]), "unit, source and fitted of links"),
        (lambda c: c.update(mesh="eight"), "a mesh is written ROWSxCOLUMNS"),
        (lambda c: c.update(extends=["n150"]), "extends \\['n150'\\]; choose .*n150"),
        (lambda c: c["constants"]["links"].pop("source"), "links needs a unit and a source"),
        (lambda c: c.update(topology="torus"), "topology is ring or line, got 'torus'"),
        (lambda c: c.pop("constants"), "has no `constants`"),
    ],
)
def test_a_broken_profile_is_refused_with_what_is_wrong(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Machine.load(profile(tmp_path, change))


@pytest.mark.parametrize("text", ["125e+9", "1.25e11", "125000000000"])
def test_floats_are_read_as_people_write_them(tmp_path, text):
    path = Path(profile(tmp_path, lambda c: None))
    content = path.read_text()
    written = f"value: {read_constants('wormhole_galaxy_6u')['link_bytes_per_s'].value}"
    assert content.count(written) == 1
    path.write_text(content.replace(written, f"value: {text}"))
    assert Machine.load(str(path)).link_bytes_per_s == 125e9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "it has an alias .* in line 2; write it out"),
        ("a: 2001-99-99\n", "not readable YAML"),
        ("? [1, 2]\n: 3\n", "not readable YAML"),
        ("a: " + "[" * 5000, "not readable YAML"),
        ("a: 0x" + "f" * 9000, "has no `constants`"),
        ("x" * 2**21, "larger than 1 MiB"),
        ("\x00", "not readable YAML"),
    ],
)
def test_text_that_is_no_profile_is_one_line(tmp_path, text, said):
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Machine.load(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_unknown_machine_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no machine 'tpu'; choose blackhole_galaxy, n150"):
        Machine.load("tpu")


def test_cores_follow_the_clock_and_dram_and_links_do_not(tmp_path):
    slower = Machine.load(profile(tmp_path, lambda c: c["constants"]["clock_hz"].update(value=5e8)))
    assert slower.launch_s == 2 * GALAXY.launch_s
    assert slower.lofi_flops_per_core_s == GALAXY.lofi_flops_per_core_s / 2
    assert slower.dram_bytes_per_s == GALAXY.dram_bytes_per_s
    assert slower.link_hop_s == GALAXY.link_hop_s
    assert Machine.load("wormhole_galaxy_4u").clock_hz == 9e8


@pytest.mark.parametrize("key", ["links", "value", "constants"])
def test_a_key_that_is_there_twice_is_an_error(tmp_path, key):
    path = tmp_path / "machine.yaml"
    lines = ["extends: n150", "constants:", "  links:", "    value: 1", "    unit: links"]
    place = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
    level = lines[place].partition(key)[0]
    path.write_text("\n".join([*lines, "    source: me", f"{level}{key}: {{}}", ""]))
    with pytest.raises(ConfigError, match=f"machine.yaml is not readable YAML: '{key}' in line 7"):
        Machine.load(path)
