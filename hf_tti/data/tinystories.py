"""TinyStories: 2.1 M stories in a young child's words (Eldan & Li 2023, arXiv:2305.07759)."""

from hf_tti.data._hub import HubStories


class TinyStories(HubStories):
    """`roneneldan/TinyStories` on the Hub: splits train and validation, column `text`."""

    hub_id = "roneneldan/TinyStories"
