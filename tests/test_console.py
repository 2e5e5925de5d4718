"""What is said on a terminal holds no secret and no control character."""

import pickle
import signal

from hf_tti.console import complain
from hf_tti.signals import Stopped


def test_a_complaint_repeats_no_secret_and_moves_no_cursor(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canaryCanaryCanary0123")
    complain("the server said canaryCanaryCanary0123\x1b[2J\nand then no more")
    said = capsys.readouterr().err
    assert said == "the server said [masked]\\x1b[2J\nand then no more\n"


def test_a_stop_is_the_same_on_the_other_side_of_a_pipe():
    stopped = Stopped(signal.SIGTERM, "after step 3")
    other = pickle.loads(pickle.dumps(stopped))
    assert (str(other), other.exit_code) == (str(stopped), 143)
