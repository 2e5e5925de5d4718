"""Laws of every metric in `hf_tti/metrics`: a new file there is tested by being there."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_tti.components import component_name, component_names, load_component
from hf_tti.errors import UserError
from metric_forwards import measured, random_forward, take_rows, with_activations

NAMES = component_names("metrics")
# The mean at `random_forward(metric, seed=7)`.
GOLDEN = {
    "activation_sparsity": 0.01875,
    "correlation": 0.04682868,
    "cosine_similarity": 0.2224863,
    "l0": 9.8125,
    "neuron_density": 0.98125,
    "participation_ratio": 4.53411,
    "token_entropy": 1.992339,
    "token_selectivity": 0.6715251,
    "top_contexts": 2.085804,
}
# Settings beside the defaults that run through the same laws.
VARIANTS = {
    "token_entropy": [{"null": True}],
    "token_selectivity": [{"null": True, "num_classes": 4}],
    "participation_ratio": [{"skip_positions": 2}],
    "l0": [{"firing": "nonzero"}],
    "cosine_similarity": [{"sites": ("mlp.out", "mlp.neurons")}],
    "top_contexts": [{"k": 3, "window": 2}],
}
CASES = [(name, settings) for name in NAMES for settings in ({}, *VARIANTS.get(name, []))]
# Metrics that make no claim under a→c·a, W_out→W_out/c.
SCALE_DEPENDENT = set()


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1])]))
def metric(request):
    name, settings = request.param
    return load_component("metrics", name)(**settings)


def assert_same(got: dict, want: dict, tolerance: float = 1e-6):
    assert list(got) == list(want)
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=tolerance, atol=tolerance, equal_nan=True, err_msg=key)


@pytest.mark.parametrize("relu", [False, True])
def test_any_split_into_batches_and_ranks_gives_the_same_value(metric, relu):
    whole = random_forward(metric, rows=12, relu=relu)
    want = measured(metric, whole)
    draw = np.random.RandomState(1)
    for _ in range(4):
        states = []
        for rank in np.array_split(draw.permutation(12), draw.randint(1, 4)):
            state = metric.init()
            cuts = np.sort(draw.randint(0, len(rank) + 1, size=2))
            for part in np.split(rank, cuts):  # with parts of no rows at all
                state = metric.update(state, take_rows(whole, part))
            states.append(state)
        states.insert(draw.randint(len(states) + 1), metric.init())
        merged = states[0]
        for state in states[1:]:
            merged = metric.merge(merged, state)
        assert_same(metric.finalize(merged), want)


def test_merge_commutes_and_changes_neither_state(metric):
    a = metric.update(metric.init(), random_forward(metric, seed=1))
    b = metric.update(metric.init(), random_forward(metric, seed=2))
    before = pickle.dumps((metric.finalize(a), metric.finalize(b)))
    forth = metric.merge(a, b)
    assert_same(metric.finalize(forth), metric.finalize(metric.merge(b, a)))
    metric.update(forth, random_forward(metric, seed=3))
    assert pickle.dumps((metric.finalize(a), metric.finalize(b))) == before


def test_metrics_that_share_a_forward_do_not_change_each_other(metric):
    first, second = random_forward(metric, seed=1), random_forward(metric, seed=2)
    alone = measured(metric, first, second)
    first, second = random_forward(metric, seed=1), random_forward(metric, seed=2)
    measured(metric, first, second)  # what it left in `first.shared` is read below
    assert_same(measured(metric, first, second), alone)


def test_pad_columns_and_pad_rows_change_nothing(metric):
    forward = random_forward(metric)
    pad = (0, 0, 0, 3, 0, 2)  # two more rows and three more columns
    padded = replace(
        with_activations(
            forward,
            lambda s: replace(s, activations=torch.nn.functional.pad(s.activations, pad, value=1000.0)),
        ),
        input_ids=torch.nn.functional.pad(forward.input_ids, pad[2:], value=3),
        token_mask=torch.nn.functional.pad(forward.token_mask, pad[2:], value=False),
    )
    assert_same(measured(metric, padded), measured(metric, forward))


def test_activations_of_pad_are_not_read(metric):
    forward = random_forward(metric)
    pad = ~forward.token_mask.unsqueeze(-1)
    poisoned = with_activations(forward, lambda s: replace(s, activations=s.activations.masked_fill(pad, math.nan)))
    assert_same(measured(metric, poisoned), measured(metric, forward))


def test_the_order_of_rows_changes_nothing(metric):
    forward = random_forward(metric)
    order = np.random.RandomState(3).permutation(len(forward.input_ids))
    assert_same(measured(metric, take_rows(forward, order)), measured(metric, forward))


@pytest.mark.parametrize("per_unit", [False, True])
def test_scale_moved_from_activations_to_their_reader_changes_nothing(metric, per_unit):
    if component_name(type(metric)) in SCALE_DEPENDENT:
        pytest.skip("no claim")
    forward = random_forward(metric, relu=True)
    units = next(iter(forward.sites.values())).activations.shape[-1]
    draw = np.random.RandomState(5)
    scale = torch.from_numpy(np.exp2(draw.randint(-6, 7, size=units))).float()
    if not per_unit:
        scale = scale[:1].expand(units)

    def rescaled(site):
        weight = None if site.out_weight is None else site.out_weight / scale[:, None]
        return replace(site, activations=site.activations * scale, out_weight=weight)

    assert_same(measured(metric, with_activations(forward, rescaled)), measured(metric, forward))


def test_a_dead_unit_and_a_silent_token_give_numbers(metric):
    def killed(site):
        activations = site.activations.clone()
        activations[..., 0] = 0.0
        activations[0, 0] = 0.0
        return replace(site, activations=activations)

    values = measured(metric, with_activations(random_forward(metric, rows=8), killed))
    assert all(math.isfinite(value) for value in values.values() if np.ndim(value) == 0), values


def test_without_data_the_mean_is_nan(metric):
    values = metric.finalize(metric.init())
    assert all(key.endswith("mean") and math.isnan(value) for key, value in values.items())
    assert measured(metric, take_rows(random_forward(metric), [])).keys() >= values.keys()


def test_an_empty_mask_gives_nan_and_counts_for_nothing(metric):
    forward = random_forward(metric)
    empty = replace(forward, token_mask=torch.zeros_like(forward.token_mask))
    values = measured(metric, empty)
    assert all(math.isnan(value) for key, value in values.items() if np.ndim(value) == 0), values
    for order in ((empty, forward), (forward, empty)):
        assert_same(measured(metric, *order), measured(metric, forward))


def test_one_token_is_no_exception(metric):
    one = random_forward(metric, rows=1, length=1)
    assert one.token_mask.sum() == 1
    values = measured(metric, one)
    assert all(isinstance(value, (float, np.ndarray)) for value in values.values())


def test_all_units_dead_is_no_exception(metric):
    silent = with_activations(random_forward(metric), lambda s: replace(s, activations=torch.zeros_like(s.activations)))
    values = measured(metric, silent)
    assert all(isinstance(value, (float, np.ndarray)) for value in values.values())


def test_a_state_survives_pickle(metric):
    first, second = random_forward(metric, seed=1), random_forward(metric, seed=2)
    state = pickle.loads(pickle.dumps(metric.update(metric.init(), first)))
    assert_same(metric.finalize(metric.update(state, second)), measured(metric, first, second), 0.0)


def test_the_metric_and_the_forward_stay_as_they_were(metric):
    forward = random_forward(metric)
    before = pickle.dumps((metric, forward.sites, forward.input_ids, forward.token_mask))
    measured(metric, forward)
    assert pickle.dumps((metric, forward.sites, forward.input_ids, forward.token_mask)) == before


def test_keys_name_the_layers_and_their_mean(metric):
    values = measured(metric, random_forward(metric, layers=3))
    several = len(metric.sites) > 1
    for site in metric.sites:
        prefix = f"{site}/" if several else ""
        layers = [values[f"{prefix}layer_{layer}"] for layer in range(3)]
        assert values[f"{prefix}mean"] == pytest.approx(np.mean(layers))


def test_bfloat16_activations_are_measured_in_float32(metric):
    forward = with_activations(random_forward(metric), lambda s: replace(s, activations=s.activations.bfloat16()))
    same = with_activations(forward, lambda s: replace(s, activations=s.activations.float()))
    assert_same(measured(metric, forward), measured(metric, same), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_golden_value(name):
    metric = load_component("metrics", name)()
    mean = measured(metric, random_forward(metric, seed=7))["mean"]
    assert mean == pytest.approx(GOLDEN[name], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "fragment"),
    [
        ("activation_sparsity", {"threshold": 0.0}, "threshold: 0.0 must be"),
        ("activation_sparsity", {"threshold": 1.0}, "threshold: 1.0 must be"),
        ("l0", {"firing": "positiv"}, "did you mean 'positive'"),
        ("neuron_density", {"rare_below": -1.0}, "rare_below: -1.0 must be"),
        ("token_selectivity", {"num_classes": 1}, "num_classes: 1 must be"),
        ("correlation", {"variance_floor": -1.0}, "variance_floor: -1.0 must be"),
        ("participation_ratio", {"skip_positions": -1}, "skip_positions: -1 must be"),
    ],
)
def test_a_setting_out_of_range_is_one_line_for_the_user(name, settings, fragment):
    with pytest.raises(UserError) as caught:
        load_component("metrics", name)(**settings)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


# Metrics for which an activation that is not finite is one that never was.
NOT_ACTIVE = {"top_contexts"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_layer_with_an_activation_that_is_not_finite_has_no_number(metric, value):
    """Rather than one that looks sound; padding may hold what it likes."""
    if component_name(type(metric)) in NOT_ACTIVE:
        return
    forward = random_forward(metric)
    place = tuple(int(i) for i in forward.token_mask.nonzero()[5])
    pad = tuple(int(i) for i in (~forward.token_mask).nonzero()[0])

    def broken(site, where):
        activations = site.activations.clone()
        activations[where][3] = value
        return replace(site, activations=activations) if site.layer == 0 else site

    got = measured(metric, with_activations(forward, lambda site: broken(site, place)))
    sound = measured(metric, forward)
    prefixes = [f"{site}/" for site in metric.sites] if len(metric.sites) > 1 else [""]
    for prefix in prefixes:
        assert math.isnan(got[f"{prefix}layer_0"])
        assert got[f"{prefix}layer_1"] == sound[f"{prefix}layer_1"]
    assert_same(measured(metric, with_activations(forward, lambda site: broken(site, pad))), sound)
