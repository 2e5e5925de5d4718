"""Hostile reports, ratings and recipes: names, links, markup, formulas, bombs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

from hostile_list import add, nothing
from hostile_models import linked
from world import (
    Case,
    report_made,
)

from analysis.ratings import read_key, read_ratings
from hf_tti.recipe import load_recipe
from hf_tti.run_folder import RunFolder

HTML = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def _report(change: Callable[[dict], object]):
    """A made report with other content, under a digest that fits."""

    def plant(case: Case) -> None:
        from safetensors.numpy import save_file

        from hf_tti.report import Report

        folder = case.copy("made") / "baseline-seed1" / "report"
        arrays = dict(Report.load(folder).arrays)
        content = json.loads((folder / "report.json").read_text())
        replaced = change(content)
        text = replaced if isinstance(replaced, str) else json.dumps(content)
        (folder / "report.json").write_text(text)
        import hashlib

        save_file(
            arrays, folder / "arrays.safetensors", metadata={"report_sha256": hashlib.sha256(text.encode()).hexdigest()}
        )

    return plant


def _set(place: str, value):
    def change(content: dict) -> None:
        *above, last = place.split("/")
        for part in above:
            content = content[part]
        content[last] = value

    return _report(change)


for name in (
    "../../../escaped",
    "/tmp/escaped",
    f"baseline{HTML}",
    "=cmd|' /C calc'!A1",
    "x" * 5000,
    "a\x00b",
    "[x](javascript:alert(1))",
):
    add(f"report: its name is {name[:24]!r}", _set("name", name), report_made)
for value in ([], {}, 10**400, True, "x", None):
    add(
        f"report: its seed is {str(value)[:12]!r}",
        _set("seed", value),
        report_made,
        refused=value in ([], {}, True, "x", 10**400),
    )
for place in (
    "metrics",
    "nulls",
    "model",
    "recipe",
    "metric_settings",
    "metric_facts",
    "loss_shards",
    "evaluation",
    "versions",
):
    add(f"report: {place} is a list", _set(place, ["x"]), report_made, refused=True)
add(
    "report: a metric is NaN",
    _report(lambda content: json.dumps(content).replace(str(content["metrics"]["sparsity/mean"]), "NaN")),
    report_made,
)
add(
    "report: a metric is 1e999",
    _report(lambda content: json.dumps(content).replace(str(content["metrics"]["sparsity/mean"]), "1e999")),
    report_made,
)
add("report: nested deeply", _report(lambda content: '{"a":' * 100_000), report_made, refused=True)
add(
    "report: a number of 10,000 digits",
    _report(lambda content: json.dumps(content).replace('"step": 300', '"step": ' + "9" * 10_000)),
    report_made,
    refused=True,
)
add(
    "report: formulas in every text",
    _report(lambda content: content.update(name="=1+1", versions={"@SUM(1)": "+1"}, git_commit="-1+1\t=2")),
    report_made,
)
add(
    "report: report.json a link out",
    linked("made", "baseline-seed1/report/report.json", "secret.json"),
    report_made,
    refused=True,
)
add(
    "report: arrays.safetensors a link out",
    linked("made", "baseline-seed1/report/arrays.safetensors", "model/model.safetensors"),
    report_made,
    refused=True,
)
add(
    "report: a pickle as arrays.safetensors",
    lambda case: (case.copy("made") / "baseline-seed1" / "report" / "arrays.safetensors").write_bytes(case.pickle),
    report_made,
    refused=True,
)
add(
    "report: stories.txt a link to a secret",
    linked("made", "baseline-seed1/stories.txt", "secret.txt"),
    report_made,
    refused=True,
)
add(
    "report: metrics.jsonl a link to a secret",
    linked("made", "baseline-seed1/metrics.jsonl", "secret.txt"),
    report_made,
    refused=True,
)
add(
    "report: metrics.jsonl nested deeply",
    lambda case: (case.copy("made") / "baseline-seed1" / "metrics.jsonl").write_text(
        "[" * 100_000 + '\n{"step": "x", "loss": []}\n'
    ),
    report_made,
)
add(
    "report: stories.txt with markup",
    lambda case: (case.copy("made") / "baseline-seed1" / "stories.txt").write_text(f"--- 1\n{HTML}\n"),
    report_made,
)


def _rating(name: str, text: str):
    def use(case: Case) -> None:
        path = case.folder / name
        path.write_text(text)
        (read_key if name == "key.json" else read_ratings)(path)

    return use


for name in ("key.json", "ratings.json"):
    add(f"rating: {name} nested deeply", nothing, _rating(name, "[" * 100_000), refused=True)
    add(
        f"rating: {name} with a number of 10,000 digits",
        nothing,
        _rating(name, '{"schema": ' + "9" * 10_000 + "}"),
        refused=True,
    )
add(
    "rating: ids that are markup",
    nothing,
    _rating(
        "ratings.json",
        json.dumps(
            {
                "schema": "hf_tti.ratings",
                "version": 1,
                "rater": HTML,
                "page_sha256": [],
                "ratings": [{"id": HTML, "rating": []}],
            }
        ),
    ),
    refused=True,
)


def _recipe(text: str):
    def use(case: Case) -> None:
        path = case.folder / "recipe.yaml"
        path.write_text(text)
        load_recipe(path)

    return use


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
BOMBS = {
    "a tag that calls os.system": "question: !!python/object/apply:os.system ['touch escaped']\n",
    "a tag that imports": "question: !!python/module:evil\n",
    "an alias of itself": "question: &a [*a]\n",
    "a billion laughs": LAUGHS,
    "nested deeply": "callbacks: " + "[" * 50_000,
    "keys nested deeply": "? " * 50_000,
    "10 MB": "question: " + "x" * 10_000_000,
    "an experiment called ../../escaped": "experiment: ../../escaped\n",
    "a label called ../../escaped": "metrics: {../../escaped: {metric: correlation}}\n",
    "extends of an absolute path": "extends: /etc/passwd\n",
    "a project called ../../escaped": "tracking: {project: ../../escaped}\n",
    "a Trojan source": "question: a\u202e b\n",
}
for name, text in BOMBS.items():
    add(f"recipe: {name}", nothing, _recipe(text), refused=True)
add(
    "recipe: a report's recipe that is a bomb",
    _set("recipe", {"experiment": HTML, "model": {"a": HTML}, "analysis": {"baseline": "../../escaped"}}),
    report_made,
)
add(
    "recipe: of a run, hidden in its name",
    lambda case: shutil.copy(case.copy("run") / "recipe.yaml", case.folder / "run" / "recipe.yaml.bak"),
    lambda case: RunFolder(case.folder / "run").recipe(),
)
