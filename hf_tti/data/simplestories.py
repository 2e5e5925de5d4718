"""SimpleStories: 2.1 M stories in simple language (Finke et al. 2025, arXiv:2504.09184)."""

from hf_tti.data._hub import HubStories


class SimpleStories(HubStories):
    """`SimpleStories/SimpleStories` on the Hub: train and test (our validation), column `story`."""

    hub_id = "SimpleStories/SimpleStories"
    hub_splits = {"train": "train", "validation": "test"}
    text_field = "story"
