"""The image's packages are the lock file's."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hf_tti.errors import UserError
from modal_jobs.app import EXTRAS, distribution_commands
from modal_jobs.lock import entry_points, locked_versions, pins, requirements

ROOT = Path(__file__).resolve().parents[2]
LOCK, SETUP = ((ROOT / name).read_text() for name in ("constraints.txt", "setup.cfg"))
CONFIG = (
    "[options]\ninstall_requires =\n    torch>=2.8\n    PyYAML>=6\n[options.extras_require]\nwandb =\n    wandb>=1\n"
)


def test_requirements_get_the_lock_files_versions():
    assert pins(CONFIG, "torch==2.13.0\npyyaml==6.0.3  # safe\n\n", []) == ["torch==2.13.0", "PyYAML==6.0.3"]
    assert all("==" in pin for pin in pins(SETUP, LOCK, EXTRAS))


@pytest.mark.parametrize(
    ("lock", "extras", "reason"),
    [
        ("torch==2.13.0", [], "no version of PyYAML"),
        ("torch==2.0\nPyYAML==6.0.3", [], "pins torch==2.0"),
        ("torch==2.13.0\nPyYAML==6.0.3\nwandb>=1", ["wandb"], "line 3: 'wandb>=1' is no exact pin"),
        ("torch==2.*", [], "line 1"),
    ],
)
def test_what_is_not_pinned_exactly_is_an_error(lock, extras, reason):
    with pytest.raises(UserError, match=reason):
        pins(CONFIG, lock, extras)


def test_every_package_that_the_image_installs_is_in_the_lock_file():
    locked, seen = locked_versions(LOCK), set()
    waiting = [requirement.name for requirement in requirements(SETUP, EXTRAS)]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    of_cuda = {name for name in seen if name.startswith(("nvidia-", "cuda-", "triton"))}  # torch pins these itself
    of_setup = {"setuptools", "pip", "wheel"}
    assert seen - of_cuda - of_setup <= locked.keys()


def test_the_copied_source_has_its_subcommands(tmp_path):
    for command in distribution_commands(SETUP, str(tmp_path)):
        subprocess.run(command, shell=True, check=True)
    (distribution,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert distribution.metadata["Name"] == "hf-tti"
    assert {entry.name for entry in distribution.entry_points} == {"report", "compare", "rate"}
    assert all(callable(entry.load().run) for entry in distribution.entry_points)
    assert entry_points(SETUP).startswith("[hf_tti.commands]\n")
