"""Laws of the command line: one line for a mistake, the exit code says which kind, nothing heavy
is imported early.
"""

import importlib.metadata
import socket
import subprocess
import sys

import pytest

from hf_tti import cli, doctor
from hf_tti.cost.memory import estimate_memory
from hf_tti.errors import UserError
from hf_tti.from_recipe import has_bf16
from hf_tti.own_files import check_model
from hf_tti.recipe import load_recipe
from hf_tti.table import format_number, format_table, headline_metrics
from tiny_runs import write_recipe


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path)


def fail(text: str):
    raise AssertionError(text)


class EntryPoint:
    dist = None

    def __init__(self, name: str, load):
        self.name, self.value, self.load = name, f"{name}_package", load


def broken():
    raise ImportError("no module named 'gone'")


@pytest.fixture
def add_ons(monkeypatch):
    greet = cli.Command("greets", lambda parser: parser.add_argument("name"), lambda a: print(f"hi {a.name}") or 7)
    points = [
        EntryPoint("greet", lambda: greet),
        EntryPoint("broken", broken),
        EntryPoint("train", lambda: fail("a built-in command cannot be replaced")),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


def test_validate_says_ok(recipe, capsys):
    assert cli.main(["recipes", "validate", str(recipe)]) == 0
    assert capsys.readouterr().out == f"{recipe}: OK, 1 run\n"


def test_validate_names_every_problem_on_a_line_and_goes_on_with_the_other_files(recipe, capsys):
    bad = write_recipe(recipe.parent, "bad", training={"max_stepz": 3, "learning_rate": "fast"})
    assert cli.main(["recipes", "validate", str(bad), str(recipe)]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"{recipe}: OK, 1 run\n"
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{bad}:") for line in lines)
    assert "max_steps" in captured.err and "fast" in captured.err


@pytest.mark.parametrize("command", [["recipes", "validate"], ["recipes", "show"], ["sweep", "--dry-run"]])
def test_checking_recipes_loads_neither_torch_nor_transformers(recipe, command):
    code = (
        "import sys; from hf_tti.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, str(recipe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shown_recipe_is_the_same_recipe(recipe, capsys, tmp_path):
    assert cli.main(["recipes", "show", str(recipe), "--set", "training.max_steps=5"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    shown, original = (
        load_recipe(tmp_path / "shown.yaml"),
        load_recipe(recipe, ["training.max_steps=5"]),
    )
    assert shown.to_dict() == original.to_dict()


def test_list_has_a_line_for_every_recipe(tmp_path, capsys):
    (tmp_path / "recipes" / "one").mkdir(parents=True)
    write_recipe(tmp_path / "recipes" / "one", "seeded", sweep={"seeds": [1, 2]})
    assert cli.main(["recipes", "list", str(tmp_path / "recipes")]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[0].endswith("one/seeded.yaml") and line[1] == "2"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "missing.yaml"],
        ["sweep", "missing.yaml"],
        ["sweep", "."],
        ["recipes", "list", "nowhere"],
        ["data", "missing.yaml"],
        ["doctor", "missing.yaml"],
    ],
)
def test_a_missing_recipe_is_one_line_and_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ([], "hf-tti:"),
        (["trian", "recipe.yaml"], "hf-tti:"),
        (["sweep", "recipe.yaml", "--jobs", "none"], "hf-tti sweep:"),
        (["recipes", "validate"], "hf-tti recipes validate:"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line_that_names_the_help(arguments, where, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert ended.value.code == 2 and captured.out == ""
    assert line.startswith(where) and line.endswith(f"see {where.removesuffix(':')} --help")


def test_a_file_where_a_folder_should_be_is_one_line(recipe, capsys, tmp_path):
    (tmp_path / "afile").write_text("")
    for arguments in (
        ["train", str(recipe), "--run-dir", str(tmp_path / "afile")],
        ["sweep", str(recipe), "--runs-dir", str(tmp_path / "afile")],
    ):
        assert cli.main(arguments) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unknown_run_names_the_nearest(recipe, capsys):
    assert cli.main(["train", str(recipe), "--run", "tiny-sed7"]) == 2
    assert "did you mean 'tiny-seed7'?" in capsys.readouterr().err


def test_an_interruption_is_one_line_and_130(recipe, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_tti.recipe.load_recipe", interrupted)
    assert cli.main(["train", str(recipe)]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_only_the_main_process_speaks(recipe, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["recipes", "show", str(recipe)]) == 0
    assert cli.main(["train", "missing.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_an_add_on_adds_a_command(add_ons, capsys):
    assert cli.main(["greet", "Lily"]) == 7
    assert capsys.readouterr().out == "hi Lily\n"


def test_a_broken_add_on_is_one_line_and_breaks_nothing_else(add_ons, recipe, capsys):
    assert cli.main(["broken"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "hf-tti broken, from broken_package, cannot be loaded: ImportError: no module named 'gone'"
    ]
    assert cli.main(["recipes", "validate", str(recipe)]) == 0


def test_help_lists_built_in_commands_and_add_ons(add_ons, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*cli.COMMANDS, "greet", "broken"])


def test_doctor_reports_without_a_network_and_never_shows_a_token(recipe, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_canaryCanaryCanary")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setattr(doctor, "_disk", lambda folder: doctor.Finding("disk", "ok", "enough"))
    assert cli.main(["doctor", str(recipe)]) == 0
    said = "".join(capsys.readouterr())
    assert "hf_canary" not in said and "0123456789abcdef" not in said
    assert "cannot be reached" in said
    assert "AdamW moments" in said and "11,584 parameters" in said


def test_bf16_that_is_emulated_is_not_chosen(monkeypatch):
    def supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", supported)
    assert not has_bf16()


def test_a_hub_that_cannot_be_reached_is_asked_once_and_nothing_is_taken_for_safe(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def unreachable(source, name, **options):
        asked.append(name)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="cannot be reached"):
        check_model("nobody/model-that-is-not-cached")
    assert len(asked) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_model("nobody/model-that-is-not-cached")  # the loader has the cache alone, too


def test_doctor_does_not_wait_for_a_hub_that_is_silent():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert doctor._within(0.1, lambda: doctor._reach(url)) is None


def test_memory_estimate_follows_the_recipe(recipe):
    def gib(part: str, *overrides: str) -> float:
        rows, _ = estimate_memory(load_recipe(recipe, overrides))
        return next(row["bytes"] for row in rows if row["part"] == part)

    assert gib("parameters") == 4 * 11584
    assert gib("AdamW moments") == 2 * gib("gradients")
    wider = "training.per_device_train_batch_size=8"
    assert gib("activations", wider) == 2 * gib("activations")
    assert gib("logits and their gradient") == 4 * 32 * 280 * 12
    gpt2 = ["data.vocab_size=", "data.tokenizer=openai-community/gpt2"]
    assert gib("logits and their gradient", *gpt2) == 4 * 32 * 50257 * 12


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (3.14159, "3.142"), (297.553, "297.6"), (12345.6, "12346"), 
     (1.5e-7, "1.500e-07"), (12000, "12,000"), (None, "-"), (float("nan"), "nan"), (0.0, "0.0000")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert format_number(value) == text


def test_tables_are_aligned_and_have_a_dash_where_there_is_nothing():
    table = format_table([{"run": "a", "loss": 1.5}, {"run": "longer", "loss": None, "l0": 3}])
    assert table.splitlines() == [
        "run      loss  l0",
        "------  -----  --",
        "a       1.500   -",
        "longer      -   3",
    ]


def test_headline_metrics_are_the_means_over_layers():
    metrics = {
        "eval_loss": 1.0,
        "eval_perplexity": 2.0,
        "eval_sparsity/layer_0": 0.1,
        "eval_sparsity/mean": 0.2,
        "eval_sparsity/zeros/mean": 0.0,
        "eval_l0/mlp.out/mean": 3.0,
        "eval_l0/resid/mean": 4.0,
    }
    assert headline_metrics(metrics) == {
        "perplexity": 2.0,
        "sparsity": 0.2,
        "l0/mlp.out": 3.0,
        "l0/resid": 4.0,
    }
