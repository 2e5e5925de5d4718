"""The `data:` section by itself."""

import subprocess
import sys

import pytest

from hf_tti.components import component_names
from hf_tti.data import DataConfig
from hf_tti.errors import UserError


def test_importing_the_config_loads_no_framework():
    code = (
        "import sys; from hf_tti.data import DataConfig; DataConfig(); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folder_lists_the_corpora():
    assert component_names("data") == [
        "simplestories",
        "synthetic_stories",
        "text_files",
        "tinystories",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 1}, "data.block_size: 1 is too small; at least 2"),
        ({"max_tokens": 0}, "data.max_tokens: 0"),
        ({"max_validation_tokens": -1}, "data.max_validation_tokens: -1"),
        ({"vocab_size": 256}, "data.vocab_size: 256"),
        ({"seed": -1}, "data.seed: -1"),
        ({"vocab_size": 300, "tokenizer": "gpt2"}, "data.vocab_size: 300 .* 'gpt2'"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**options)
