"""The fake Hub of `hub.py`, closed, and the environment that makes this process's client talk to it: import it before
huggingface_hub, which reads the address once.
"""

import os

from fakes.hub import FakeHub

HUB = FakeHub()
os.environ |= {**HUB.environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
