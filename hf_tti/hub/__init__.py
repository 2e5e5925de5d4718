"""The HuggingFace Hub: a run's checkpoints as branches `step1000` of a repository, its final model on `main`.

Training promises, a thread delivers: see `queue`. Only files of an allow-list leave, after a scan for secrets
(`files`). The token comes from the environment or `hf auth login`, never from a recipe.
"""

from hf_tti.hub.check import check_hub, section_of
from hf_tti.hub.errors import PushError
from hf_tti.hub.push import Pushed, planned, push_run
from hf_tti.hub.training import PushCheckpoints, push_what_is_left, pushing

__all__ = [
    "PushCheckpoints",
    "PushError",
    "Pushed",
    "check_hub",
    "planned",
    "push_run",
    "push_what_is_left",
    "pushing",
    "section_of",
]
