"""What is said of the end of calls, and the exit code that comes of several."""

import pytest

from modal_jobs.calls import finish, wait


class Ended:
    """Stands for a `modal.FunctionCall` that is over."""

    def __init__(self, value):
        self.value = value

    def get(self):
        if isinstance(self.value, Exception):
            raise self.value
        return {"what": "run", "line": "the last line", "metrics": {"eval_perplexity": 12.5}, **self.value}


JOB = {"run_name": "run", "place": "runs/expt/run"}


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (
            {"exit_code": 0},
            0,
            "run: finished, perplexity 12.50\nto have it here: mkdir -p runs/expt && modal volume get tti-checkpoints",
        ),
        ({"exit_code": 2}, 2, "run: refused (exit code 2), not tried again: the last line"),
        ({"exit_code": 3}, 3, "run: refused (exit code 3), not tried again: the last line"),
        ({"exit_code": 4}, 4, "run: trained, its push to the Hub is incomplete (exit code 4): the last line"),
        (
            RuntimeError("run ended with exit code -9: step 3\nmore"),
            1,
            "run: FAILED: run ended with exit code -9: step 3",
        ),
        (TimeoutError(), 1, "run: FAILED: TimeoutError"),
    ],
)
def test_every_end_is_a_line(value, code, words, capsys):
    assert wait([Ended(value)], [JOB]) == code
    said = capsys.readouterr()
    assert (said.out if code == 0 else said.err).startswith(words)


def test_one_failure_does_not_hide_the_others(capsys):
    calls = [Ended(RuntimeError("lost")), Ended({"exit_code": 0}), Ended({"exit_code": 4})]
    assert wait(calls, [JOB] * 3) == 4
    assert "run: finished" in capsys.readouterr().out


def test_a_failure_ends_the_command_with_its_code():
    finish(0)
    with pytest.raises(SystemExit) as ended:
        finish(4)
    assert ended.value.code == 4
