"""The container file: its style, and that all it names exists. No engine builds it here."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from streamer.settings import ServerSettings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lines(deploy):
    """Instructions, continued lines joined, comments left out."""
    text = (deploy / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def words(lines, instruction):
    return [line.removeprefix(f"{instruction} ") for line in lines if line.startswith(instruction)]


def test_hadolint_finds_nothing(deploy):
    done = subprocess.run(
        [
            Path(sys.executable).with_name("hadolint"),
            *("--failure-threshold", "info", deploy / "Containerfile"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_copied_paths_exist_and_are_not_ignored(lines):
    allowed = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        word for line in words(lines, "COPY") if "--from" not in line for word in line.split()
    ]
    sources = {word for word in copied if not word.startswith("./")}
    assert sources == set(allowed)
    assert all((ROOT / source).exists() for source in sources)
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"} <= sources


def test_extras_exist_and_none_brings_torch(lines):
    (given,) = (re.search(r"\.\[(.+?)\]", line)[1] for line in lines if ".[" in line)
    (runtime,) = (line.removeprefix("RUNTIME=") for line in words(lines, "ARG"))
    names = given.replace("${RUNTIME}", runtime).split(",")
    assert set(names) <= set(PROJECT["optional-dependencies"])
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *extras["server-base"]]
    needed += [need for name in names for need in extras[name]]
    assert not {Requirement(need).name for need in needed} & {"torch", "torchaudio", "lhotse"}


def test_every_library_is_locked_to_what_is_tested_here():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    extras = PROJECT["optional-dependencies"]
    needs = [*PROJECT["dependencies"], *extras["server"], *extras["server-base"]]
    for need in [*needs, *extras["tracing"]]:
        name = Requirement(need).name
        if name == PROJECT["name"]:
            continue
        assert locked[canonicalize_name(name)] == metadata.version(name), name


def test_python_is_one_that_the_project_supports(lines):
    versions = {re.search(r"python:([\d.]+)-slim", image)[1] for image in words(lines, "FROM")}
    (version,) = versions
    assert Version(version) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_it_is_the_version_of_the_package(lines, deploy):
    (label,) = words(lines, "LABEL")
    assert f'image.version="{PROJECT["version"]}"' in label
    assert f"newTag: {PROJECT['version']}\n" in (deploy / "kustomization.yaml").read_text()


def test_user_is_not_root_and_sigterm_drains(lines):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words(lines, "USER")[-1])
    assert words(lines, "STOPSIGNAL") == ["SIGTERM"]
    assert words(lines, "ENTRYPOINT") == ['["python", "-m", "streamer.serve"]']


def test_the_settings_of_the_image_are_settings(lines, monkeypatch):
    (of_image,) = words(lines, "ENV")[1:]
    given = dict(re.findall(r"VOICECOHORT_(\w+)=(\S+)", of_image))
    assert {name.lower() for name in given} <= set(ServerSettings.model_fields)
    settings = ServerSettings(insecure=True, **{name.lower(): v for name, v in given.items()})
    ports = set(words(lines, "EXPOSE")[0].split())
    assert {a.rpartition(":")[2] for a in (settings.listen, settings.health_listen)} <= ports
    for name, value in given.items():
        monkeypatch.setenv(f"VOICECOHORT_{name}", value)
    with pytest.raises(ValueError, match="is not loopback"):
        ServerSettings()


def test_health_check_uses_the_served_address(lines):
    """The command of the image, against a server; its port is replaced by one that is free."""
    (check,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    command = re.findall(r'"([^"]+)"', check.partition("CMD")[2])
    assert command[:3] == ["python", "-m", "streamer.process.probe"]
    assert any(f"VOICECOHORT_HEALTH_LISTEN={command[3]}" in line for line in words(lines, "ENV"))
