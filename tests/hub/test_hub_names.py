"""Laws of names that are typed: what is none is said in one line, with what to type."""

import re

import pytest

from hf_tti.errors import UserError
from hf_tti.loading import find_checkpoint

NAMES = {
    "": "'': an empty name; name a run folder",
    " ": "' ': an empty name; name a run folder",
    "me/x@step5": "me/x@step5: no such folder; of the Hub name me/x --revision step5",
}


@pytest.mark.parametrize(("given", "said"), NAMES.items())
def test_a_name_that_is_none_says_what_to_type(hub, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        find_checkpoint(given)
    assert not hub.requests
