"""Laws of the cost estimate: its FLOPs are those that torch counts, hours and dollars follow from them, what it assumes
is said, and what it measures is a run of the recipe.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_tti import cli
from hf_tti.activations import Site, make_forward_pass
from hf_tti.cost import GPUS, Schedule, estimate, schedule_of
from hf_tti.cost.flops import forward_flops, meta_model, objective_flops, step_flops
from hf_tti.cost.gpus import PRICES_AS_OF
from hf_tti.cost.shapes import shapes_of
from hf_tti.cost.step import predicted_step
from hf_tti.cost.timing import WARM_UP_STEPS, Measurement, measure
from hf_tti.errors import UserError
from hf_tti.objectives.base import Objective, Scope, Term
from hf_tti.objectives.decorrelation import Decorrelation
from hf_tti.objectives.orthogonality import Orthogonality
from hf_tti.objectives.selectivity import Selectivity
from hf_tti.recipe import Recipe, load_recipe
from tiny import tiny_configs, tiny_model
from tiny_runs import write_recipe

ROWS, LENGTH, WIDTH = 3, 16, 64
EXPT1 = Path(__file__).parents[1] / "recipes" / "expt1"


@pytest.fixture
def path(tmp_path) -> Path:
    return write_recipe(tmp_path)


def load(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides)


# ---- FLOPs ----


@pytest.mark.parametrize("kind", tiny_configs())
def test_flops_are_those_that_torch_counts(kind):
    model = tiny_model(kind)
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 60, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    with FlopCounterMode(display=False) as step:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    shapes = meta_model(tiny_configs()[kind])
    assert forward_flops(shapes, ROWS, LENGTH) == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert step_flops(shapes, ROWS, LENGTH) == pytest.approx(step.get_total_flops(), rel=0.01)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
def test_gradient_checkpointing_computes_the_blocks_once_more():
    model = tiny_model()
    model.gradient_checkpointing_enable()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 60, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert step_flops(model, ROWS, LENGTH, recomputed=True) == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    "objective", [Decorrelation(), Decorrelation(neuron_block=8), Decorrelation(cross_half=True), Orthogonality()]
)
def test_an_objective_costs_what_its_terms_and_their_gradients_do(objective):
    width = {"mlp.neurons": WIDTH, "mlp.out": 16}[objective.sites[0]]
    ids = torch.randint(0, 60, (ROWS, LENGTH))
    sites = {f"h.{i}": Site(torch.randn(ROWS, LENGTH, width, requires_grad=True), layer=i) for i in range(2)}
    with FlopCounterMode(display=False) as counted:
        scope = Scope(generator=torch.Generator().manual_seed(0))
        (term,) = objective.terms(make_forward_pass({"input_ids": ids}, None, sites), scope).values()
        term.value.backward()
    block = min(width, getattr(objective, "neuron_block", None) or width)
    assert counted.get_total_flops() == 2 * 2 * 2 * ROWS * LENGTH * block**2  # layers, passes, multiply-adds
    shapes = meta_model(tiny_configs()["gpt2"])
    assert objective_flops(shapes, objective.weighted(1.0), ROWS, LENGTH) == counted.get_total_flops()


class Peeking(Objective):
    def terms(self, forward, scope):
        (site, *_) = forward.sites.values()
        return {"peeking": Term(site.activations.sum() * float(site.activations.detach().max()))}


@pytest.mark.parametrize("objective", [Selectivity(), Peeking()])
def test_an_objective_that_looks_at_values_is_said_to_be_uncounted(objective):
    assert objective_flops(meta_model(tiny_configs()["gpt2"]), objective.weighted(1.0), ROWS, LENGTH) is None


def test_the_published_step_is_6_3_teraflop():
    published = estimate(load(EXPT1 / "baseline.yaml", "sweep="), gpu="A100")
    assert published.flops_per_step == pytest.approx(6.345e12, rel=1e-3)  # from the shapes by hand: 193.6 MFLOP a token


# ---- Schedules ----


@pytest.mark.parametrize(
    ("overrides", "evaluations"),
    [
        ([], 3),  # steps 2, 4 and 6, the last of which is the end
        (["training.max_steps=7"], 4),
        (["training.eval_strategy=no"], 1),
        (["training.eval_steps=0.5"], 2),
        (["training.load_best_model_at_end=true"], 4),
        (["training.eval_on_start=true"], 4),
        (["training.max_steps=-1", "training.num_train_epochs=2", "data.max_tokens=1280", "training.eval_steps=10"], 2),
    ],
)
def test_a_schedule_has_the_evaluations_of_the_run(path, overrides, evaluations):
    assert schedule_of(load(path, *overrides)).num_evaluations == evaluations


def test_epochs_are_steps_where_the_recipe_says_how_long_the_data_is(path):
    recipe = load(path, "training.max_steps=-1", "training.num_train_epochs=2", "data.max_tokens=1280")
    assert schedule_of(recipe).num_steps == 2 * 1280 // (32 * 4)
    with pytest.raises(UserError, match=r"depends on the data; set training.max_steps or data.max_tokens"):
        schedule_of(load(path, "training.max_steps=-1"))


def test_processes_and_accumulation_make_the_global_batch(path):
    schedule = schedule_of(load(path, "training.gradient_accumulation_steps=3"), num_gpus=2)
    assert schedule.rows_per_step == 4 * 3 * 2


# ---- Hours and dollars ----


def test_hours_and_dollars_follow_from_flops_and_the_gpu(path):
    recipe = load(path, "data.max_validation_tokens=3200")
    cost = estimate(recipe, gpu="H100", mfu=0.5)
    card, shapes = GPUS["H100"], tiny_shapes(recipe)
    objective = objective_flops(shapes, Orthogonality().weighted(0.1), 4, 32)
    assert cost.flops_per_step == step_flops(shapes, 4, 32) + objective
    assert cost.flops == 6 * cost.flops_per_step + 3 * forward_flops(shapes, 100, 32)
    assert cost.hours == pytest.approx(cost.flops / (0.5 * card.bf16_flops) / 3600)
    assert cost.dollars == pytest.approx(cost.hours * card.dollars_per_hour)
    assert (cost.mfu, cost.num_steps, cost.gpu_memory_bytes) == (0.5, 6, card.memory_bytes)
    assert estimate(recipe, gpu="H100", mfu=0.25).hours == pytest.approx(2 * cost.hours)


def tiny_shapes(recipe: Recipe):
    from hf_tti.cost.memory import config_of

    return meta_model(config_of(recipe)[0])


def test_more_gpus_do_more_rows_in_the_same_time_for_more_money(path):
    one, four = (estimate(load(path, "training.eval_strategy=no"), gpu="L4", num_gpus=n) for n in (1, 4))
    assert four.flops_per_step == 4 * one.flops_per_step
    assert four.hours == pytest.approx(one.hours) and four.dollars == pytest.approx(4 * one.dollars)
    assert four.memory_bytes == one.memory_bytes


def test_gradient_checkpointing_trades_flops_for_memory(path):
    kept, recomputed = (
        estimate(load(path, "model.n_layer=8", f"training.gradient_checkpointing={on}"), gpu="L4")
        for on in ("false", "true")
    )
    assert recomputed.memory_bytes < kept.memory_bytes and recomputed.flops_per_step > kept.flops_per_step
    assert "activations computed twice" in " ".join(recomputed.assumptions)


def test_a_gpu_without_bf16_trains_in_fp32_and_refuses_bf16(path):
    assert "8.1 TFLOP/s in fp32" in estimate(load(path), gpu="T4").assumptions[0]
    assert "65 TFLOP/s in fp16" in estimate(load(path, "training.precision=fp16"), gpu="T4").assumptions[0]
    with pytest.raises(UserError, match="training.precision: 'bf16' is not for a T4"):
        estimate(load(path, "training.precision=bf16"), gpu="T4")


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_a_dated_price_and_an_mfu_below_what_kernels_reach(name, path):
    card = GPUS[name]
    assert PRICES_AS_OF in card.source and "modal.com/pricing" in card.source and card.data_sheet
    large = load(path, "training.per_device_train_batch_size=512", "model.n_embd=512", "model.n_head=8")
    assert estimate(load(path), gpu=name).mfu < 0.01 < estimate(large, gpu=name).mfu < 0.74


def test_the_mfu_is_that_of_the_predicted_step(path):
    recipe = load(path, "training.gradient_accumulation_steps=3", "training.eval_strategy=no")
    card, shapes = GPUS["A100"], tiny_shapes(recipe)
    of_objective = objective_flops(shapes, Orthogonality().weighted(0.1), 4, 32)
    facts = {"num_rows": 4, "length": 32, "precision": "bf16", "accumulation": 3, "objective_flops": of_objective}
    step = predicted_step(shapes_of(shapes), card, **facts)
    for num_gpus in (1, 2):
        cost = estimate(recipe, gpu="A100", num_gpus=num_gpus)
        assert cost.mfu == pytest.approx(cost.flops_per_step / (num_gpus * card.bf16_flops * step.seconds))
        assert cost.hours * 3600 == pytest.approx(6 * step.seconds)


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ("model.attn_implementation=eager", "model.attn_implementation=sdpa"),
        ("training.torch_compile=false", "training.torch_compile=true"),
        ("training.gradient_checkpointing=true", "training.gradient_checkpointing=false"),
        ("training.optim=adamw_torch", "training.optim=adamw_torch_fused"),
        ("training.tf32=false training.precision=fp32", "training.tf32=true training.precision=fp32"),
        ("data.vocab_size=4097", "data.vocab_size=4096"),
    ],
)
def test_hours_follow_from_how_the_recipe_computes(path, slower, faster):
    large = ["training.per_device_train_batch_size=512", "model.n_embd=512", "model.n_head=8"]
    more, less = (estimate(load(path, *large, *of.split()), gpu="A100").hours for of in (slower, faster))
    assert more > less


def test_what_is_assumed_is_said(path):
    said = " ".join(estimate(load(path), gpu="A100").assumptions)
    for words in (
        "predicted for this model and batch, not measured",
        "published runs (some on this GPU)",
        PRICES_AS_OF,
        "evaluations are not counted",
        "CUDA context",
    ):
        assert words in said
    assert "evaluations are not counted" not in " ".join(
        estimate(load(EXPT1 / "baseline.yaml", "sweep="), gpu="A100").assumptions
    )
    assert "published runs (none on this GPU)" in estimate(load(path), gpu="L4").assumptions[1]
    published = " ".join(estimate(load(EXPT1 / "baseline.yaml", "sweep="), gpu="A100").assumptions)
    assert "a vocabulary of 50,257, no multiple of 8" in published and "launch kernels" not in published
    assert "a step waits for the CPU to launch kernels" in said
    counted = estimate(load(EXPT1 / "token_entropy.yaml", "sweep="), gpu="A100").assumptions
    assert any("not counted: the work of token_entropy" in line for line in counted)


# ---- The command ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpu", "a100-80gb"], "did you mean 'A100-80GB'?"),
        ([], "--gpu: name one, or time this machine with --measure"),
        (["--gpu", "A100", "--mfu", "40"], "--mfu 40: a fraction of the peak"),
        (["--gpu", "A100", "--mfu", "nan"], "--mfu nan: a fraction of the peak"),
        (["--gpu", "A100", "--set", "training.max_steps=0"], "training.max_steps: 0 trains nothing"),
        (["--measure", "--num-gpus", "2"], "--measure: times one process"),
    ],
)
def test_mistakes_are_one_line(path, capsys, options, said):
    assert cli.main(["cost", str(path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_command_says_whether_it_fits_and_adds_up_a_sweep(path, capsys):
    assert cli.main(["cost", str(path), "--gpu", "T4", "--set", "sweep.seeds=[1,2]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["runs"]) == ["tiny-seed1", "tiny-seed2"]
    assert found["total"]["runs"] == 2 and found["total"]["fits"]
    assert found["total"]["dollars"] == pytest.approx(sum(run["dollars"] for run in found["runs"].values()))
    assert cli.main(["cost", str(EXPT1 / "baseline.yaml"), "--gpu", "T4"]) == 0
    said = capsys.readouterr().out
    assert "does NOT fit into the 16 GB of T4" in said and "all 3 runs in turn" in said


def test_runs_that_differ_share_no_step_and_the_notes_name_theirs(path, capsys):
    grid = "sweep.grid={training.per_device_train_batch_size: [2, 4]}"
    assert cli.main(["cost", str(path), "--gpu", "T4", "--set", grid]) == 0
    table, notes = capsys.readouterr().out.split("\n\n")
    first, _, total = table.splitlines()[2:]
    assert total.split("T4")[1].split()[1] == "-" and "<0.01" in total
    assert f"of {first.split()[0]}; the others differ:" in notes and "waits for the CPU to launch kernels" in notes


def test_a_folder_costs_what_its_recipes_cost(path, tmp_path, capsys):
    other = write_recipe(tmp_path, "other", sweep={"seeds": [1, 2]})
    assert cli.main(["cost", str(tmp_path), "--gpu", "L4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["runs"] == 3 == len(found["runs"])
    assert found["total"]["flops"] == sum(run["flops"] for run in found["runs"].values())
    assert cli.main(["cost", str(tmp_path), "--gpu", "L4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{other} (2)") for line in lines) and any(line.startswith("all 3") for line in lines)


def test_importing_the_estimate_loads_no_torch():
    code = "import sys, hf_tti.cost, hf_tti.launchers; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Measuring ----


def test_a_measurement_is_a_short_run_of_the_recipe_and_leaves_nothing(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = sorted(entry.name for entry in path.parent.iterdir())
    measured = measure(load(path), num_steps=2)
    assert measured.num_steps == 2
    assert min(measured.step, measured.evaluation, measured.checkpoint, measured.rest) > 0
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted({*(entry.name for entry in path.parent.iterdir())} - {"cache"}) == before
    assert capsys.readouterr().out == ""
    assert cli.main(["cost", str(path), "--measure", "2", "--gpu", "L4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["total"]
    assert found["dollars"] == pytest.approx(found["hours"] * GPUS["L4"].dollars_per_hour)
    assert 0 < found["mfu"] < 1 and found["num_steps"] == 6
    assert "measured here (CPU" in found["assumptions"][0]


def test_the_wall_time_is_the_sum_of_its_parts():
    measured = Measurement(step=2.0, evaluation=5.0, checkpoint=1.0, rest=10.0, num_steps=WARM_UP_STEPS)
    schedule = Schedule(
        num_steps=100, rows_per_step=4, micro_rows=4, num_evaluations=3, validation_rows=None, length=32
    )
    assert measured.wall(schedule, num_checkpoints=4) == 10 + 100 * 2 + 3 * 5 + 4 * 1
