"""Laws of the package's own source: what would run somebody's code is not in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(path for name in ("hf_tti", "analysis", "modal_jobs") for path in (ROOT / name).rglob("*.py"))
UNPICKLES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "pandas.io.pickle",
}
READS_PICKLES = {"torch.save", "numpy.load", "np.load", "pd.read_pickle", "pandas.read_pickle"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execvp", "subprocess.getoutput"}
BUILDS_OBJECTS = {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.UnsafeLoader",
    "yaml.Loader",
}
WITH_CARE = {"np.load": "allow_pickle", "numpy.load": "allow_pickle"}  # fine unless this keyword is given


def name_of(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute, else ''."""
    if isinstance(node, ast.Name):
        return node.id
    above = name_of(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{above}.{node.attr}" if above else ""


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {word.arg: word.value for word in call.keywords if word.arg}


def is_true(node: ast.expr | None) -> bool:
    """Anything but a literal False, None or 0."""
    return node is not None and not (isinstance(node, ast.Constant) and not node.value)


def faults(source: str) -> Iterator[str]:
    """What in a module's source breaks a law, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name in UNPICKLES or name.split(".")[0] in UNPICKLES:
                    yield f"{node.lineno}: import of {name}"
        if isinstance(node, ast.Attribute) and name_of(node) in BUILDS_OBJECTS:
            yield f"{node.lineno}: {name_of(node)}"
        if isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in _faults_of_call(node))


def _faults_of_call(call: ast.Call) -> Iterator[str]:
    name, given = name_of(call.func), keywords(call)
    if name in RUNS_TEXT:
        yield name
    if name in READS_PICKLES and not (name in WITH_CARE and not is_true(given.get(WITH_CARE[name]))):
        yield name
    if name == "torch.load" and not is_true(given.get("weights_only")):
        yield name
    for word in ("trust_remote_code", "shell", "weights_only"):
        wanted = word == "weights_only"
        if word in given and is_true(given[word]) is not wanted:
            yield f"{word} is {ast.unparse(given[word])}"
    if name.endswith(".from_pretrained") and "Auto" in name:
        if "trust_remote_code" not in given:
            yield f"{name} without trust_remote_code=False"
        if "Model" in name and not is_true(given.get("use_safetensors")):
            yield f"{name} without use_safetensors=True"
    if name.endswith("load_dataset") and is_true(given.get("trust_remote_code")):
        yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_package_runs_what_it_reads(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


def test_the_stock_trainers_checkpoints_alone_are_unpickled():
    """By a command of their own, and with tensors and plain values allowed alone."""
    assert [
        path.name for path in SOURCES if "torch.load(" in path.read_text(encoding="utf-8").replace("`torch.load(", "")
    ] == ["stock_checkpoint.py"]


BAD = {
    "import pickle": 1,
    "from pickle import loads": 1,
    "import joblib.numpy_pickle": 1,
    "torch.save(x, f)": 1,
    "torch.load(f)": 1,
    "torch.load(f, weights_only=True)": 0,
    "torch.load(f, weights_only=False)": 2,
    "np.load(f, allow_pickle=True)": 1,
    "np.load(f)": 0,
    "yaml.load(t, Loader=yaml.Loader)": 2,
    "yaml.parse(t, Loader=yaml.SafeLoader)": 0,
    "eval(t)": 1,
    "model.eval()": 0,
    "subprocess.run(t, shell=True)": 1,
    "subprocess.run(t, shell=flag)": 1,
    "subprocess.run([t], shell=False)": 0,
    "AutoTokenizer.from_pretrained(x)": 1,
    "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False)": 1,
    "AutoConfig.from_pretrained(x, trust_remote_code=True)": 1,
    "os.system(t)": 1,
}


@pytest.mark.parametrize("source", BAD)
def test_the_law_finds_what_it_is_about(source):
    assert len(set(faults(source))) == BAD[source]
