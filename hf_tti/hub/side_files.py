"""What goes to the Hub beside a model: the resolved recipe, the report, the log, SAEs; nothing of this machine.

recipe.yaml                       without `tracking:` and `hub:`, local paths as bare names
report/report.json, arrays.safetensors
sae/<hookpoint>/seed_<n>/         cfg.json and sae_weights.safetensors, as SAELens reads them
metrics.jsonl, stories.txt        what the run logged
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from hf_tti.report import ARRAYS_FILE, REPORT_DIR, REPORT_FILE, SAE_DIR, Report
from hf_tti.run_folder import METRICS_FILE, RECIPE_FILE, RunFolder

MAX_ARRAYS, MAX_LOG = 32_000_000, 8_000_000  # bytes
SAE_FILES = "cfg.json", "sae_weights.safetensors"
_STORIES_FILE = "stories.txt"
_OF_THIS_MACHINE = ("tracking", "hub")

Files = dict[str, bytes | Path]


def side_files(run: RunFolder, repo: str) -> Files:
    """Path in the repository -> content. The report and what belongs to it are there once the run is evaluated."""
    files: Files = {RECIPE_FILE: recipe_text(run, made_by=True).encode(), **_logs(run), **_sae_files(run, repo)}
    if (run.path / REPORT_DIR / REPORT_FILE).is_file():
        content, arrays = as_published(Report.load(run.path), repo).to_bytes()
        files[f"{REPORT_DIR}/{REPORT_FILE}"] = content
        if len(arrays) <= MAX_ARRAYS:
            files[f"{REPORT_DIR}/{ARRAYS_FILE}"] = arrays
    return files


def recipe_text(run: RunFolder, *, made_by: bool = False) -> str:
    """The resolved recipe under a header: whose it is, and with `made_by` what trained it, which a resumed run changes.

    No command and no folder is in it.
    """
    recipe, record = run.recipe(), run.record() or {}
    kept = {name: value for name, value in recipe.to_dict().items() if name not in _OF_THIS_MACHINE}
    published = dataclasses.replace(recipe, **without_folders(kept), tracking={}, hub={})
    header = [
        f"{recipe.run_name}, as it was trained; tracking: and hub: are left out, local files go by their bare names",
        f"digest: {record.get('digest')}",
    ]
    if made_by:
        versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        header += [f"versions: {versions}", f"commit: {record.get('git_commit')}"]
    return "".join(f"# {' '.join(line.split())}\n" for line in header) + published.to_yaml()


def as_published(report: Report, repo: str) -> Report:
    """The report with its model's place on the Hub, and other places as bare names."""
    content = {item.name: getattr(report, item.name) for item in dataclasses.fields(report)}
    reference = report.evaluation.get("reference")
    return dataclasses.replace(
        report,
        model=dataclasses.replace(report.model, source=repo, revision=None, commit=None),
        data=dataclasses.replace(report.data, settings=without_folders(report.data.settings)),
        recipe=without_folders({k: v for k, v in (content["recipe"] or {}).items() if k not in _OF_THIS_MACHINE})
        or None,
        evaluation={**without_folders(report.evaluation), "reference": reference and Path(reference).name},
    )


def without_folders(value: Any) -> Any:
    """The same with every text that is an absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    is_path = isinstance(value, str) and re.match(r"~|/|[A-Za-z]:\\", value) and "\n" not in value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value


def sae_folders(run: RunFolder) -> list[str]:
    """`<hookpoint>/seed_<n>` of each SAE that an evaluation left whole, in order."""
    above = run.path / REPORT_DIR / SAE_DIR
    found = [path.parent for path in above.glob(f"*/*/{SAE_FILES[0]}") if (path.parent / SAE_FILES[1]).is_file()]
    return sorted(str(folder.relative_to(above)) for folder in found)


def _sae_files(run: RunFolder, repo: str) -> Files:
    files: Files = {}
    for name in sae_folders(run):
        config, weights = (run.path / REPORT_DIR / SAE_DIR / name / file for file in SAE_FILES)
        content = without_folders(json.loads(config.read_text(encoding="utf-8")))
        if isinstance(content.get("metadata"), dict):
            content["metadata"]["model_name"] = repo
        files[f"{SAE_DIR}/{name}/{SAE_FILES[0]}"] = (json.dumps(content, indent=2) + "\n").encode()
        files[f"{SAE_DIR}/{name}/{SAE_FILES[1]}"] = weights
    return files


def _logs(run: RunFolder) -> Files:
    paths = [run.path / name for name in (METRICS_FILE, _STORIES_FILE)]
    return {path.name: path for path in paths if path.is_file() and path.stat().st_size <= MAX_LOG}
