"""Laws of state files: what is written comes back with the same bits, and a damaged or hostile one is a UserError."""

import json
import math
import os
import pickle
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers.optimization import Adafactor

from hf_tti.errors import UserError
from hf_tti.state_files import load_state, save_state

KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(), st.text())
STATES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


def returned(state, folder):
    save_state(state, folder / "state.safetensors")
    return load_state(folder / "state.safetensors")


def same(a, b) -> bool:
    """Equal with types, key order, bits and shapes; any NaN is a NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and bits(a) == bits(b)
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return a == b


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=STATES)
def test_plain_state_comes_back(tmp_path, state):
    assert same(returned(state, tmp_path), state)


def test_equal_keys_of_different_types_stay_apart(tmp_path):
    for state in ({1: "int", "1": "text"}, {None: 0, "None": 1, "null": 2}, {True: 0, "True": 1}, {0.5: 0, "0.5": 1}):
        assert same(returned(state, tmp_path), state)


def test_extreme_numbers_come_back(tmp_path):
    state = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 2**128 + 1, -(10**100)]
    assert same(returned(state, tmp_path), state)


def test_numpy_scalars_come_back_as_pythons(tmp_path):
    assert same(returned([np.float32(0.1), np.int64(-3), np.bool_(True)], tmp_path), [float(np.float32(0.1)), -3, True])


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool),
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (3, 5)])
def test_tensors_come_back(tmp_path, dtype, shape):
    raw = torch.randint(0, 2, shape) if dtype is torch.bool else torch.randint(1, 100, shape)
    assert same(returned({"a": raw.to(dtype)}, tmp_path), {"a": raw.to(dtype)})


def test_signs_and_nans_of_tensors_come_back(tmp_path):
    tensor = torch.tensor([math.nan, -math.nan, math.inf, -0.0, 1e-45])
    payload = torch.tensor([0x7FC00001, -1], dtype=torch.int32).view(torch.float32)
    assert same(returned([tensor, payload, tensor.bfloat16()], tmp_path), [tensor, payload, tensor.bfloat16()])


def test_views_shared_and_strided_tensors_come_back_each_for_itself(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"base": base, "same": base, "column": base[:, 2], "turned": base.t(), "wide": base[:1].expand(3, 6)}
    again = returned(state, tmp_path)
    assert same(again, state)
    again["base"].zero_()
    assert same(again["same"], base) and same(again["column"], base[:, 2])


def test_a_parameter_with_its_gradient_comes_back_as_a_tensor(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3))
    again = returned({"p": parameter}, tmp_path)["p"]
    assert type(again) is torch.Tensor and not again.requires_grad and torch.equal(again, parameter.detach())


@pytest.mark.parametrize(
    "array",
    [
        *(np.array(3.5), np.zeros((0, 2)), np.arange(6).reshape(2, 3)[:, ::-1], np.asfortranarray(np.eye(3))),
        *(np.arange(5, dtype=np.uint32), np.array([True, False]), np.float16([1, -0.0]), np.array([1j], np.complex64)),
    ],
)
def test_arrays_come_back(tmp_path, array):
    assert same(returned([array], tmp_path), [array])


def test_reading_is_not_a_view_of_the_file(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state({"a": torch.ones(100_000)}, path)
    state = load_state(path)
    with open(path, "r+b") as handle:
        handle.seek(-400_000, os.SEEK_END)
        handle.write(bytes(400_000))
    assert state["a"].sum() == 100_000


# ---- Generators, optimizers, schedules ----


def test_generators_go_on_as_they_would_have(tmp_path):
    pcg = np.random.default_rng(3)
    pcg.random(7)
    states = returned(
        {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "pcg": pcg.bit_generator.state,
        },
        tmp_path,
    )

    def draws():
        return random.random(), random.gauss(0, 1), np.random.randn(), torch.rand(3).tolist(), pcg.random()

    expected = draws()
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    pcg.bit_generator.state = states["pcg"]
    assert draws() == expected


def test_a_gaussian_in_the_pocket_is_kept(tmp_path):
    random.gauss(0, 1)
    np.random.randn()
    python, numpy = random.getstate(), np.random.get_state()
    expected = random.gauss(0, 1), np.random.randn()
    states = returned({"python": python, "numpy": numpy}, tmp_path)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    assert (random.gauss(0, 1), np.random.randn()) == expected


OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "sgd_plain": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "adafactor": lambda groups: Adafactor(groups, lr=0.1, relative_step=False),
    "lbfgs": lambda groups: torch.optim.LBFGS(groups[0]["params"], lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_and_its_schedule_go_on_bitwise(tmp_path, name):
    def parts():
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)).to(torch.float32)
        groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.05}]
        optimizer = OPTIMIZERS[name](groups)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
        ]
        return model, optimizer, schedules

    def steps(model, optimizer, schedules, first, last):
        for step in range(first, last):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

            @torch.enable_grad()
            def closure(x=x):
                optimizer.zero_grad()
                loss = (model(x) ** 2).mean()
                loss.backward()
                return loss

            optimizer.step(closure)
            schedules[0].step()
            schedules[1].step(float(step))

    whole = parts()
    steps(*whole, 0, 3)
    weights = {key: value.clone() for key, value in whole[0].state_dict().items()}
    state = [whole[1].state_dict(), [schedule.state_dict() for schedule in whole[2]]]
    saved = returned(state, tmp_path)
    assert same(plain(saved), plain(state))
    resumed = parts()
    resumed[0].load_state_dict(weights)
    resumed[1].load_state_dict(saved[0])
    for schedule, one in zip(resumed[2], saved[1], strict=True):
        schedule.load_state_dict(one)
    steps(*whole, 3, 6)
    steps(*resumed, 3, 6)
    assert same(dict(resumed[0].state_dict()), dict(whole[0].state_dict()))
    assert same(plain(resumed[1].state_dict()), plain(whole[1].state_dict()))


def plain(state):
    """Subclasses of dict as dicts, as state files keep them."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return type(state)(plain(value) for value in state) if isinstance(state, list | tuple) else state


# ---- What is refused ----


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, object()]}, "cannot keep a.1, a object"),
        ({"a": {(1, 2): 3}}, "cannot keep a, a dict"),
        ({"a": {1, 2}}, "cannot keep a, a set"),
        (lambda: 0, "cannot keep it, a function"),
        ({"a": b"bytes"}, "cannot keep a, a bytes"),
        ({"a": 1j}, "cannot keep a, a complex"),
        ({"a": np.array(["text"])}, "cannot be kept"),
        ({"a": np.array([object()])}, "cannot be kept"),
        ({"a": np.datetime64("2020-01-01")}, "cannot keep a, a date"),
        ({"a": torch.eye(2).to_sparse()}, "cannot be kept"),
        ({"a": torch.empty(2, device="meta")}, "cannot be kept"),
        ({"a": 10**5000}, "cannot be kept"),
    ],
)
def test_what_cannot_be_kept_is_one_line(tmp_path, value, said):
    path = tmp_path / "state.safetensors"
    with pytest.raises(UserError, match=said) as caught:
        save_state(value, path)
    assert "\n" not in str(caught.value) and "state.safetensors" in str(caught.value)
    assert not path.exists()


def test_what_refers_to_itself_is_refused(tmp_path):
    state = {}
    state["again"] = state
    with pytest.raises(UserError, match="cannot be kept"):
        save_state(state, tmp_path / "state.safetensors")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "state.safetensors"
    save_state({"a": torch.arange(50.0), "b": [np.arange(3), (1, 0.5)]}, path)
    return path.read_bytes()


def refused(content: bytes, path) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a state file of hf_tti, or damaged") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_a_user_error(tmp_path, good):
    for length in range(len(good)):
        refused(good[:length], tmp_path / "state.safetensors")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_are_read_or_a_user_error(tmp_path, good, data):
    content = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) * 8 - 1), min_size=1, max_size=8)):
        content[place // 8] ^= 1 << place % 8
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    try:
        load_state(path)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_other_bytes_are_a_user_error(tmp_path, content):
    refused(content, tmp_path / "state.safetensors")


def test_missing_files_and_folders_are_user_errors(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="not a state file"):
            load_state(path)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["tensor", "array", "dict", "list", "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(structure=JSON)
def test_hostile_structures_are_read_or_a_user_error(tmp_path, structure):
    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"structure": json.dumps(structure)})
    try:
        load_state(path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "structure",
    [
        *('["object", "os.system"]', '["tensor", "not there"]', '["tensor", []]', '["dict", [[[], 1]]]', '["dict", 3]'),
        *('["list", null]', "{", "", "[" * 100_000, '["list", [' * 5_000, "1" * 5000, '["array"]', "[1, 2, 3]"),
    ],
)
def test_structures_that_save_state_never_writes_are_refused(tmp_path, structure):
    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"structure": structure})
    refused(path.read_bytes(), path)


def test_a_deep_structure_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"structure": '["list", [' * 5000 + "1" + "]]" * 5000})
    refused(path.read_bytes(), path)


def test_an_array_of_a_type_that_numpy_lacks_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(2, dtype=torch.bfloat16)}, path, metadata={"structure": '["array", "a"]'})
    refused(path.read_bytes(), path)


def test_a_safetensors_file_without_structure_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.zeros(2)}, path, metadata=metadata)
        refused(path.read_bytes(), path)


class _Canary:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_under_that_name_is_refused_and_not_run(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "state.safetensors"
    refused(pickle.dumps(_Canary(canary)), path)
    torch.save(_Canary(canary), tmp_path / "saved.pt")
    refused((tmp_path / "saved.pt").read_bytes(), path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(_Canary(canary))).close()
    assert canary.exists()  # the canary would have sung
