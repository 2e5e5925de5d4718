"""Texts that a careless page would run, and a comparison in which everything that is text is one of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from made_reports import made_report, make_run, make_runs

from analysis.comparison import Comparison, compare_runs
from analysis.runs import Run, find_runs
from hf_tti.report import vocabulary_arrays

_RUN = "window.owned=1;document.title='owned'"
PAYLOADS = [
    f"<script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"</SCRIPT ><ScRiPt>{_RUN}</ScRiPt>",
    f"</title><script>{_RUN}</script>",
    f"</style><script>{_RUN}</script>",
    f"</textarea><script>{_RUN}</script>",
    f"--><script>{_RUN}</script><!--",
    f"]]><script>{_RUN}</script>",
    f"<!--<script>{_RUN}",
    f'<img src=x onerror="{_RUN}">',
    f"<img/src='http://127.0.0.1:9/x'/onerror={_RUN}>",
    f'<svg onload="{_RUN}">',
    f"<svg><script>{_RUN}</script></svg>",
    f'<svg><animate onbegin="{_RUN}" attributeName=x dur=1s>',
    f"<math><mtext><script>{_RUN}</script></mtext></math>",
    f'<body onload="{_RUN}">',
    f'" onmouseover="{_RUN}" autofocus onfocus="{_RUN}" x="',
    f"' onfocus='{_RUN}' autofocus tabindex='1",
    f'<iframe srcdoc="<script>parent.{_RUN}</script>"></iframe>',
    "<iframe src=http://127.0.0.1:9/></iframe>",
    f'<a href="javascript:{_RUN}">x</a>',
    f"[x](javascript:{_RUN})",
    f'<object data="data:text/html,<script>{_RUN}</script>"></object>',
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<style>@import 'http://127.0.0.1:9/x.css';*{background:url(http://127.0.0.1:9/y)}</style>",
    "<base href=http://127.0.0.1:9/>",
    f'<meta http-equiv=refresh content="0;url=javascript:{_RUN}">',
    f"<details open ontoggle={_RUN}>",
    "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    f"\u2028\u2029\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e\\x3cscript>${{{_RUN}}}",
    f"<form action=http://127.0.0.1:9/><input autofocus onfocus={_RUN}></form>",
]
_SOME = ("sparsity", "correlation", "neuron_density")


def hostile_comparison(folder: Path, payload: str) -> Comparison:
    """A made baseline, and a method whose every text is the payload."""
    runs = find_runs(make_runs(folder, methods=("baseline",), seeds=(1, 2), layers=1, units=4))
    for seed in (1, 2):
        path = make_run(folder / f"other-seed{seed}", "other", seed, layers=1, units=4)
        (path / "stories.txt").write_text(f"--- 1\n{payload}\n", encoding="utf-8")
        report = made_report(payload, "other", seed, layers=1, units=4)
        report = dataclasses.replace(
            report,
            metrics=report.metrics | {f"{payload}/mean": 0.5, f"{payload}/layer_0": 0.4},
            metric_facts=report.metric_facts | {payload: {"greater_is_better": True, "summary": payload}},
            metric_settings=report.metric_settings | {payload: {"metric": payload, "sites": [payload]}},
            model=dataclasses.replace(report.model, source=payload, revision=payload),
            recipe=report.recipe | {"experiment": payload, "question": payload},
            versions={payload: payload},
            git_commit=payload,
            arrays=dict(report.arrays) | vocabulary_arrays(dict.fromkeys(report.token_texts(), payload)),
        )
        runs.append(Run(name=payload, method=payload, seed=seed, report=report, folder=path))
    return compare_runs([dataclasses.replace(run, report=_with_few_metrics(run.report, payload)) for run in runs])


def _with_few_metrics(report, payload: str):
    facts = {label: fact for label, fact in report.metric_facts.items() if label in (*_SOME, payload)}
    return dataclasses.replace(report, metric_facts=facts)
