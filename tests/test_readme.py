"""What README.md shows is what happens: its code and its commands run, its links lead somewhere."""

import contextlib
import importlib.metadata
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from analysis.ratings import RATINGS_SCHEMA, SCHEMA_VERSION
from hf_tti import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMOKE = [
    *("model.n_layer=1", "model.n_embd=8", "model.n_head=2", "model.n_inner=16"),
    *("data.name=synthetic_stories", "data.vocab_size=300", "data.tokenizer=", "data.block_size=32"),
    *("data.max_tokens=3000", "data.max_validation_tokens=500"),
    *("training.max_steps=2", "training.warmup_steps=1", "training.per_device_train_batch_size=2"),
    *("training.eval_steps=2", "training.save_steps=2", "training.dataloader_num_workers=0"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def in_scratch(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def test_the_python_examples_print_what_they_show(in_scratch):
    first, own_objective, *_ = blocks("python")
    shown = blocks("text")[0].split()
    namespace = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(first, namespace)
    got = [line.split() for line in printed.getvalue().splitlines() if line.startswith("eval_")]
    assert [name for name, _ in got] == shown[::2]
    # Another machine's rounding, amplified by a hundred steps, stays within a tenth.
    assert [float(value) for _, value in got] == pytest.approx([float(value) for value in shown[1::2]], rel=0.1)

    exec(own_objective, namespace)
    trainer = namespace["trainer"]
    trainer.args.max_steps = trainer.args.logging_steps = 1
    trainer.train()
    assert trainer.state.log_history[0]["objective/QuietNeurons"] > 0


CLOUD = README.split("## From zero to a shared checkpoint")[1].split("\n## ")[0]  # see test_shared_checkpoint.py
HERE = [block for block in blocks("bash") if block not in CLOUD]
COMMANDS = [line.split("#")[0].strip() for block in HERE for line in block.splitlines() if "hf-tti" in line]


def test_there_are_commands():
    of_analysis = {entry.name for entry in importlib.metadata.entry_points(group=cli.ENTRY_POINTS)}
    shown = {shlex.split(command)[1] for command in COMMANDS}
    assert shown | {"import-checkpoint"} == {*cli.COMMANDS, *of_analysis}  # for that one see test_importing.py
    assert of_analysis == {"report", "compare", "rate"}


def export_ratings(folder: Path, key: Path) -> None:
    """What two raters' pages would export."""
    content = json.loads(key.read_text())
    for name, rating in (("ada", "monosemantic"), ("bob", "polysemantic")):
        ratings = [{"id": item, "rating": rating} for item in content["items"]]
        export = {"schema": RATINGS_SCHEMA, "version": SCHEMA_VERSION, "rater": name, "ratings": ratings}
        (folder / f"{name}.json").write_text(json.dumps({**export, "page_sha256": content["page_sha256"]}))


def test_the_commands_run_in_their_order(in_scratch, capsys):
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "hf-tti"
        if "--agreement" in words:
            export_ratings(in_scratch, in_scratch / "rating" / "key.json")
        if words[1] in ("train", "data"):
            words += [word for override in SMOKE for word in ("--set", override)]
        assert cli.main(words[1:]) == 0, (command, capsys.readouterr().err)
    assert (in_scratch / "runs" / "try" / "result.json").is_file()
    assert (in_scratch / "reports" / "try" / "index.html").is_file()
    (example,) = (block for block in blocks("python") if 'model_id="runs/try"' in block)
    namespace = {}
    exec(example, namespace)
    assert namespace["results"]["perplexity"] > 1 and len(list((in_scratch / "results").iterdir())) == 1
    assert namespace["card"].to_dict()["model-index"][0]["results"]


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_tree_names_every_module():
    tree = README.split("## Where things are")[1]
    modules = {path.name for path in (ROOT / "hf_tti").glob("*.py")} - {"__init__.py", "__main__.py", "errors.py"}
    folders = {path.name + "/" for path in (ROOT / "hf_tti").iterdir() if (path / "__init__.py").is_file()}
    unnamed = {name for name in modules | folders if name not in tree}
    assert not unnamed
