"""What importing the package costs, and that the public names are there."""

import subprocess
import sys

import pytest

import hf_tti


def test_importing_loads_no_torch():
    code = (
        "import sys, hf_tti, hf_tti.components, hf_tti.errors; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", hf_tti.__all__)
def test_public_names_exist_and_are_documented(name):
    assert getattr(hf_tti, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'InterpTrainr'"):
        _ = hf_tti.InterpTrainr
