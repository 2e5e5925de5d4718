"""Top contexts against a search through every token, and through ties that no order of arrival may decide."""

from collections import Counter

import numpy as np
import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.errors import UserError
from hf_tti.metrics import top_contexts
from hf_tti.metrics.top_contexts import TopContexts
from metric_forwards import float32, measured, random_forward, take_rows


def forward_of(activations: np.ndarray, ids: np.ndarray, out_weight=None) -> ForwardPass:
    """Rows [B, T] of unmasked tokens with activations [B, T, D]."""
    site = Site(float32(activations), 0, "mlp.neurons", out_weight)
    return ForwardPass(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.bool), {"h.0.mlp.act": site})


def by_search(forwards, unit: int, k: int, window: int) -> list[tuple]:
    """(value, tokens, position, writes) of the k largest, each token looked at on its own."""
    found = []
    for forward in forwards:
        site = next(iter(forward.sites.values()))
        for row, column in forward.token_mask.nonzero().tolist():
            activation = float(site.activations[row, column, unit])
            if activation <= 0:
                continue
            around = range(column - window, column + window + 1)
            inside = [0 <= t < forward.input_ids.shape[1] and bool(forward.token_mask[row, t]) for t in around]
            tokens = [int(forward.input_ids[row, t]) if shown else -1 for t, shown in zip(around, inside, strict=True)]
            norm = float(site.write_norm[unit])
            written = [
                float(site.activations[row, t, unit]) * norm if shown else 0.0
                for t, shown in zip(around, inside, strict=True)
            ]
            found.append((activation * norm, tokens, column, written))
    return sorted(found, key=lambda context: -context[0])[:k]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("k", "window"), [(20, 10), (5, 2), (1, 0), (200, 1)])
def test_the_contexts_are_those_of_a_search(relu, k, window):
    metric = TopContexts(k=k, window=window)
    forwards = [random_forward(metric, rows=rows, seed=seed, relu=relu) for seed, rows in enumerate((7, 1, 4))]
    values = measured(metric, *forwards)
    arrays = [values[f"{name}/layer_0"] for name in ("values", "tokens", "positions", "activations")]
    shown = (10, k, 2 * window + 1)
    assert [array.shape for array in arrays] == [(10, k), shown, (10, k), shown]
    assert [array.dtype for array in arrays] == [np.float32, np.int32, np.int32, np.float16]
    means, shares = [], []
    for unit in range(10):
        want = by_search(forwards, unit, k, window)
        missing = k - len(want)
        np.testing.assert_allclose(arrays[0][unit], [c[0] for c in want] + [np.nan] * missing, rtol=1e-6)
        assert arrays[1][unit].tolist() == [c[1] for c in want] + [[-1] * (2 * window + 1)] * missing
        assert arrays[2][unit].tolist() == [c[2] for c in want] + [-1] * missing
        writes = [c[3] for c in want] + [[0.0] * (2 * window + 1)] * missing
        np.testing.assert_allclose(arrays[3][unit].astype(float), writes, rtol=2**-11, atol=2**-25)
        means.append(np.mean([c[0] for c in want]))
        peaks = Counter(c[1][window] for c in want)
        shares.append(max(peaks.values()) / len(want) if len(want) > 1 else np.nan)
    assert values["layer_0"] == pytest.approx(np.mean(means), rel=1e-6)
    share = np.nan if np.isnan(shares).all() else np.nanmean(shares)
    assert values["same_token_share/layer_0"] == pytest.approx(share, nan_ok=True)


def tied(rows: int = 40, length: int = 12, units: int = 6) -> ForwardPass:
    """Activations of three sizes only, so that every unit's last places are drawn from many equals."""
    draw = np.random.RandomState(0)
    activations = draw.randint(0, 3, size=(rows, length, units)).astype(float)
    activations[..., 0] = 2.0
    return forward_of(activations, draw.randint(0, 50, size=(rows, length)))


@pytest.mark.parametrize("values_at_a_time", [18, 42, 1 << 21])
def test_among_equals_neither_batches_nor_order_nor_blocks_decide(values_at_a_time, monkeypatch):
    metric, whole = TopContexts(k=5, window=3), tied()
    want = measured(metric, whole)
    monkeypatch.setattr(top_contexts, "_FIRST_ROWS", 3)
    monkeypatch.setattr(top_contexts, "_LARGEST_BLOCK", values_at_a_time)
    draw = np.random.RandomState(1)
    for _ in range(5):
        parts = np.array_split(draw.permutation(40), draw.randint(1, 9))
        states = [metric.update(metric.init(), take_rows(whole, part)) for part in parts]
        merged = metric.init()
        for index in draw.permutation(len(states)):
            merged = metric.merge(merged, states[index])
        got = metric.finalize(merged)
        assert got.keys() == want.keys()
        assert all(np.array_equal(got[key], want[key], equal_nan=True) for key in want)


def test_equals_are_chosen_from_the_whole_pass_and_not_from_its_beginning():
    whole = tied(rows=400)
    tokens = measured(TopContexts(k=20, window=2), whole)["tokens/layer_0"][0]
    early = measured(TopContexts(k=20, window=2), take_rows(whole, range(40)))["tokens/layer_0"][0]
    assert len({*map(tuple, tokens.tolist())} - {*map(tuple, early.tolist())}) > 10


def test_a_unit_without_positive_activations_has_no_contexts():
    draw = np.random.RandomState(2)
    activations = draw.rand(3, 5, 4)
    activations[..., 0] = -1.0
    activations[..., 1] = 0.0
    activations[..., 2] = np.nan
    values = measured(TopContexts(k=2, window=1), forward_of(activations, draw.randint(0, 9, size=(3, 5))))
    assert np.isnan(values["values/layer_0"][:3]).all()
    assert (values["tokens/layer_0"][:3] == -1).all() and (values["positions/layer_0"][:3] == -1).all()
    assert values["layer_0"] == pytest.approx(np.sort(activations[..., 3].ravel())[-2:].mean())


def test_a_row_that_occurs_twice_counts_twice():
    ids = np.array([[4, 5, 6], [4, 5, 6], [7, 8, 9]])
    activations = np.array([[0, 3, 0], [0, 3, 0], [1, 0, 2]], dtype=float)[..., None]
    values = measured(TopContexts(k=3, window=1), forward_of(activations, ids))
    assert values["tokens/layer_0"][0].tolist() == [[4, 5, 6], [4, 5, 6], [8, 9, -1]]
    assert values["positions/layer_0"][0].tolist() == [1, 1, 2]
    assert values["activations/layer_0"][0].tolist() == [[0, 3, 0], [0, 3, 0], [0, 2, 0]]
    assert values["same_token_share/layer_0"] == pytest.approx(2 / 3)


def test_writes_too_large_for_float16_stay_finite():
    activations = np.array([[1e5, -1e30, 3.0, np.inf]])[..., None]
    shown = measured(TopContexts(k=2, window=2), forward_of(activations, np.array([[4, 5, 6, 7]])))[
        "activations/layer_0"
    ]
    largest = 65504
    assert shown[0].tolist() == [[-largest, 3, largest, 0, 0], [0, 0, largest, -largest, 3]]


def test_activations_that_rise_all_along_are_found_in_small_blocks():
    activations = np.arange(1, 3001, dtype=float).reshape(10, 300, 1)
    ids = np.random.RandomState(5).randint(0, 9, size=(10, 300))
    parts = [forward_of(activations[i : i + 3], ids[i : i + 3]) for i in range(0, 10, 3)]
    values = measured(TopContexts(k=20, window=1), *parts)
    assert values["values/layer_0"][0].tolist() == list(range(3000, 2980, -1))
    assert values["positions/layer_0"][0].tolist() == list(range(299, 279, -1))


def test_the_share_is_one_for_a_detector_of_one_token():
    ids = np.random.RandomState(3).randint(0, 5, size=(8, 20))
    activations = np.stack([ids == 2, np.random.RandomState(4).rand(8, 20)], axis=-1).astype(float)
    values = measured(TopContexts(k=10), forward_of(activations, ids))
    assert (values["tokens/layer_0"][0, :, 10] == 2).all()
    assert 0.5 < values["same_token_share/layer_0"] < 0.9


def test_memory_does_not_grow_with_the_pass():
    metric = TopContexts(k=4, window=3)

    def size(state) -> int:
        return sum(value.nbytes for record in state.values() for value in record.values() if torch.is_tensor(value))

    state = metric.init()
    sizes = []
    for seed in range(6):
        state = metric.update(state, random_forward(metric, rows=20, seed=seed))
        sizes.append(size(state))
    assert len(set(sizes)) == 1
    units, layers = 10, 2
    assert sizes[0] == layers * units * (4 * (18 + 12 * 3) + 4)  # as the docstring says, and one norm a unit


@pytest.mark.parametrize(("settings", "fragment"), [({"k": 0}, "top_contexts.k: 0 must be"), ({"window": -1}, "-1")])
def test_settings_out_of_range_are_one_line(settings, fragment):
    with pytest.raises(UserError, match=fragment):
        TopContexts(**settings)
