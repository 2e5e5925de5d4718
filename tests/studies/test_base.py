"""What every study is: keys of its layers, settings within limits, a file name that registers it."""

from dataclasses import dataclass, field

import pytest

from hf_tti.activations import resolve_sites
from hf_tti.components import component_name, component_names, load_component
from hf_tti.errors import UserError
from hf_tti.studies.base import Study
from tiny import tiny_model


@dataclass(frozen=True, kw_only=True)
class NumTokens(Study):
    least: int = field(default=1, metadata={"min": 1})

    def run(self, subject, sample, reference=None):
        return {"mean": float(sample.num_tokens)}


def keys(*sites: str) -> list[str]:
    study = NumTokens(sites=sites)
    return study.layer_keys(resolve_sites(tiny_model("gpt2"), study.sites))


def test_a_key_names_the_layer_and_where_there_are_several_the_site():
    assert keys("resid") == ["layer_0", "layer_1"]
    assert keys("resid", "mlp.out") == ["resid/layer_0", "resid/layer_1", "mlp.out/layer_0", "mlp.out/layer_1"]


def test_a_pattern_that_matches_twice_in_a_layer_has_keys_with_paths():
    assert keys("h.*.ln_*") == ["h.*.ln_1/layer_0", "h.*.ln_2/layer_0", "h.*.ln_1/layer_1", "h.*.ln_2/layer_1"]


def test_one_site_may_be_given_alone():
    assert NumTokens(sites="resid").sites == ("resid",)


def test_a_setting_out_of_range_is_one_line_for_the_user():
    with pytest.raises(UserError, match="least: 0 must be at least 1"):
        NumTokens(least=0)


def test_the_file_name_is_the_registry_and_helpers_are_not_in_it():
    names = component_names("studies")
    assert {"cka", "concept_auroc"} <= set(names)
    assert not {"base", "sample", "subject", "__init__", "_concepts"} & set(names)
    assert component_name(load_component("studies", "concept_auroc")) == "concept_auroc"
    assert load_component("studies", f"{__name__}:NumTokens") is NumTokens
    with pytest.raises(UserError, match="did you mean 'cka'"):
        load_component("studies", "ckaa")
