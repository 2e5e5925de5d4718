"""Laws of what leaves: files of the allow-list, no links, no secrets; a refusal names the file, never the secret."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hf_tti.hub.errors import PushError
from hf_tti.hub.files import check_files, is_allowed, model_files

KEY = "0123456789abcdef" * 2 + "01234567"
CANARIES = {
    "Hub token": ("hf_" + "Canary" * 6, "a Hugging Face token"),
    "old W&B key": (KEY, "40 hex digits"),
    "AWS key": ("AKIA" + "CANARY234567CANA", "an AWS key"),
    "GitHub token": ("ghp_" + "Canary" * 6, "a GitHub token"),
    "API key": ("sk-" + "Canary" * 6, "an API key"),
    "Modal token id": ("ak-" + "Canary" * 4, "a Modal token"),
    "Modal token secret": ("as-" + "Canary" * 4, "a Modal token"),
    "private key": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=", "a private key"),
}


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.setattr("hf_tti.hub.files.get_token", lambda: None)


@pytest.mark.parametrize(("secret", "kind"), CANARIES.values(), ids=CANARIES)
@pytest.mark.parametrize("place", ["text", "beyond the first chunk", "header of safetensors"])
def test_a_secret_refuses_the_push_and_is_not_repeated(tmp_path, secret, kind, place):
    if place == "header of safetensors":
        name, path = "model.safetensors", tmp_path / "model.safetensors"
        save_file({"w": torch.zeros(4)}, path, metadata={"note": f"key: {secret}"})
    else:
        name, path = "tokenizer.json", tmp_path / "tokenizer.json"
        filler = "" if place == "text" else "word " * 220_000
        path.write_text(f"{filler}\nkey: {secret}\n")
    with pytest.raises(PushError, match=f"{name}: holds {kind}") as refused:
        check_files({name: path})
    assert secret.splitlines()[-1] not in str(refused.value) and refused.value.exit_code == 4
    with pytest.raises(PushError, match=kind):
        check_files({name: path.read_bytes()})


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"])
def test_the_environments_own_secrets_are_found_whatever_their_form(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "no-form-that-anybody-knows")
    numbers = tmp_path / "model.safetensors"
    hidden = torch.frombuffer(bytearray(b"..no-form-that-anybody-knows.."), dtype=torch.uint8)
    save_file({"w": hidden}, numbers)
    for file, content in (("config.json", b'{"a": "no-form-that-anybody-knows"}'), ("model.safetensors", numbers)):
        with pytest.raises(PushError, match=f"{file}: holds the value of {name}"):
            check_files({file: content})


def test_the_token_of_a_login_is_found(monkeypatch):
    monkeypatch.setattr("hf_tti.hub.files.get_token", lambda: "a-token-from-a-file")
    with pytest.raises(PushError, match="config.json: holds the Hub's token"):
        check_files({"config.json": b"a-token-from-a-file"})


def test_commits_digests_and_random_numbers_are_no_secrets(tmp_path):
    save_file({"w": torch.randint(0, 256, (2_000_000,), dtype=torch.uint8)}, tmp_path / "model.safetensors")
    report = json.dumps({"git_commit": KEY, "revision": KEY, "sha256": "ab" * 32, "words": "task-as-usual"}).encode()
    check_files(
        {
            "model.safetensors": tmp_path / "model.safetensors",
            "report/report.json": report,
            "recipe.yaml": f"# commit: {KEY}\n# digest: {'ab' * 32}\n".encode(),
        }
    )


def test_only_a_models_files_are_taken_from_a_folder(tmp_path):
    wanted = ["config.json", "model.safetensors", "objectives.safetensors", "tokenizer.json"]
    others = [".env", "notes.txt", "optimizer.safetensors", "pytorch_model.bin", "rng_state_0.safetensors"]
    others += ["scheduler.safetensors", "trainer_state.json", "training_args.bin", "manifest.json", "model.pkl"]
    for name in (*wanted, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / "vocab.json").mkdir()
    found = model_files(tmp_path)
    assert [path.name for path in found.values()] == wanted
    assert list(found) == [*wanted[:2], "objectives/objectives.safetensors", wanted[3]]
    check_files(found)


@pytest.mark.parametrize(
    "path",
    ["training_args.bin", "../config.json", "a/config.json", "assets/x/y.png", "assets/../model.safetensors", ".env"]
    + ["sae/cfg.json/x", "assets/notes.txt", "/config.json", "sae/../../cfg.json", "pytorch_model.bin", "run.json"],
)
def test_other_paths_do_not_leave(path):
    assert not is_allowed(path)
    with pytest.raises(PushError, match="may be pushed"):
        check_files({path: b"x"})


def test_a_link_does_not_leave(tmp_path):
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "vocab.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PushError, match="vocab.json: is a link"):
        check_files(model_files(tmp_path))
