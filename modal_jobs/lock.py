"""The image's packages: what setup.cfg requires, at the versions of the one lock file (constraints.txt)."""

from __future__ import annotations

import configparser
from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hf_tti.errors import UserError


def locked_versions(lock: str) -> dict[str, str]:
    """Canonical name -> version, of the text of a lock file.

    Raises:
        UserError: a line that is no exact pin.
    """
    versions = {}
    for number, line in enumerate(lock.splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, equals, version = text.partition("==")
        if not equals or not version or "*" in version:
            raise UserError(f"constraints.txt, line {number}: {text!r} is no exact pin (name==version)")
        versions[canonicalize_name(name.strip())] = version.strip()
    return versions


def requirements(setup_cfg: str, extras: Sequence[str]) -> list[Requirement]:
    """What the text of a setup.cfg asks for, with the extras named, one for each distribution."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(setup_cfg)
    lines = parser["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += parser["options.extras_require"][extra].splitlines()
    found = [Requirement(line) for line in map(str.strip, lines) if line]
    return list({canonicalize_name(requirement.name): requirement for requirement in found}.values())


def pins(setup_cfg: str, lock: str, extras: Sequence[str]) -> list[str]:
    """`name==version` of each requirement. Raises a UserError for one that the lock file lacks or contradicts."""
    versions = locked_versions(lock)
    pinned = []
    for requirement in requirements(setup_cfg, extras):
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            raise UserError(f"constraints.txt has no version of {requirement.name}, which setup.cfg requires")
        if not requirement.specifier.contains(version, prereleases=True):
            raise UserError(
                f"constraints.txt pins {requirement.name}=={version}, setup.cfg requires {requirement.specifier}"
            )
        pinned.append(f"{requirement.name}=={version}")
    return pinned


def entry_points(setup_cfg: str) -> str:
    """The text of an entry_points.txt with the subcommands that packages beside hf_tti add to `hf-tti`."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(setup_cfg)
    lines = parser["options.entry_points"]["hf_tti.commands"].splitlines()
    return "\n".join(["[hf_tti.commands]", *(line.strip() for line in lines if line.strip())]) + "\n"
