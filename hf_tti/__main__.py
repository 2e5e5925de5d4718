"""`python -m hf_tti` is the `hf-tti` command, and what `accelerate launch -m hf_tti` starts on
every process.
"""

import sys

from hf_tti.cli import main

if __name__ == "__main__":
    sys.exit(main())
