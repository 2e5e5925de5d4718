"""Laws of `training.full_determinism`: set before anything can use a GPU, held to on resume, and nothing in the way."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tti import InterpTrainer
from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from hf_tti.objectives import Orthogonality
from tiny import arguments, rows, tiny_model

READ_BY_CUDA = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING")


@pytest.fixture(autouse=True)
def _put_back(monkeypatch):
    """transformers turns its switches on for the whole process."""
    for name in (*READ_BY_CUDA, "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(name, "")  # remembered, so that it is put back
        monkeypatch.delenv(name)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def trainer_of(folder, **changes) -> InterpTrainer:
    return InterpTrainer(
        tiny_model(),
        arguments(folder, **changes),
        objectives=[load_component("objectives", name)().weighted(0.1) for name in component_names("objectives")],
        metrics={name: load_component("metrics", name)() for name in component_names("metrics")},
        train_dataset=rows(ragged=True),
        eval_dataset=rows(6, ragged=True, seed=9),
    )


def weights(trainer: InterpTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_it_is_off_unless_asked_for(tmp_path):
    trainer_of(tmp_path)
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_what_cublas_reads_is_set_with_the_arguments_and_torchs_switches_with_the_trainer(tmp_path):
    arguments(tmp_path, full_determinism=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    trainer_of(tmp_path, full_determinism=True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert all(os.environ[name] for name in READ_BY_CUDA)


def test_a_deterministic_run_equals_itself_and_on_a_cpu_every_other(tmp_path):
    once, twice = (weights(trainer_of(tmp_path, full_determinism=True)) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    plain = weights(trainer_of(tmp_path))
    assert all(torch.equal(value, twice[name]) and torch.equal(value, plain[name]) for name, value in once.items())


def test_a_checkpoint_is_held_to_it(tmp_path):
    def train(resume: bool = False, **changes):
        objectives = [Orthogonality().weighted(0.1)]
        args = arguments(tmp_path, save_strategy="steps", save_steps=2, **changes)
        InterpTrainer(tiny_model(), args, objectives=objectives, metrics={}, train_dataset=rows()).train(resume or None)

    train(full_determinism=True)
    with pytest.raises(UserError, match="full_determinism was True, is False"):
        train(resume=True)


class Called(TorchDispatchMode):
    """The operations that ran, by name, and those among them for which CUDA has no deterministic kernel.

    torch.use_deterministic_algorithms lists what raises there; NLLLoss does for images only (nll_loss2d).
    """

    RAISE = {
        *(
            "nll_loss2d_forward",
            "histc",
            "put_",
            "put",
            "kthvalue",
            "max_unpool2d",
            "max_unpool3d",
            "_ctc_loss_backward",
        ),
        *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_embedding_bag", "avg_pool3d_backward"),
        *("adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    }

    def __init__(self):
        super().__init__()
        self.names, self.raising = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        self.names.add(name)
        if (
            name in self.RAISE
            or name in ("cumsum", "cumsum_", "cumprod")
            and args[0].dtype.is_floating_point
            or name == "bincount"
            and (kwargs.get("weights") is not None or len(args) > 1 and args[1] is not None)
            or name in ("median", "nanmedian")
            and len(args) > 1
            or name.startswith("scatter_reduce")
            and "prod" in (*args, kwargs.get("reduce"))
        ):
            self.raising.add(name)
        return func(*args, **kwargs)


def test_no_objective_or_metric_needs_a_kernel_that_cuda_has_no_deterministic_version_of(tmp_path):
    """On a CPU, by name: what runs there runs on a GPU as well."""
    trainer = trainer_of(tmp_path, eval_strategy="steps", eval_steps=2, force_ratio_steps=2)
    with Called() as called:
        trainer.train()
        torch.zeros(3).cumsum(0)
    assert {"index_add_", "mm", "embedding_dense_backward"} <= called.names
    assert called.raising == {"cumsum"}, "only the one of this test"
