import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from fake_hub import READER, FakeHub
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from safetensors.torch import save

from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.models.hub import FetchedFile, fetch, is_hub_address
from cxrlt.recipe import ModelConfig
from user_errors import assert_mentions, raises_user_error

ADDRESS = "hf-hub:org/model/weights/model.safetensors"
CONTENT = b"tensors" * 1000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Return a hub on this computer, with an empty cache and no token. No other host is asked."""
    server = FakeHub()
    endpoint = f"http://127.0.0.1:{server.port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name, file in {
        "HF_HUB_CACHE": "cache",
        "HF_TOKEN_PATH": "token",
        "AGENT_HARNESSES_PATH": "x",
    }.items():
        monkeypatch.setattr(constants, name, str(tmp_path / file))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses between attempts
    close_session()  # the open one has read the proxy
    fetch.cache_clear()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    close_session()
    server.server.shutdown()
    server.server.server_close()
    thread.join()


def fetch_in_new_process(address: str) -> FetchedFile:
    fetch.cache_clear()
    return fetch(address)


def stop(hub: FakeHub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    close_session()


def test_a_file_of_the_main_branch_is_fetched_and_its_commit_is_known(hub: FakeHub):
    commit = hub.push({"weights/model.safetensors": CONTENT})
    fetched = fetch(ADDRESS)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.path.name == "model.safetensors"
    assert fetched.revision == commit


def test_a_branch_that_moves_gives_the_new_commit_and_a_pinned_commit_stays(hub: FakeHub):
    old = hub.push({"model.pth": CONTENT})
    assert fetch("hf-hub:org/model/model.pth").revision == old
    new = hub.push({"model.pth": b"better"})
    moved = fetch_in_new_process("hf-hub:org/model/model.pth")
    assert moved.path.read_bytes() == b"better" and moved.revision == new
    pinned = fetch(f"hf-hub:org/model/model.pth@{old}")
    assert pinned.path.read_bytes() == CONTENT and pinned.revision == old


def test_a_process_keeps_the_commit_that_it_has_seen(hub: FakeHub):
    hub.push({"model.pth": CONTENT})
    before = fetch("hf-hub:org/model/model.pth")
    hub.push({"model.pth": b"better"})
    assert fetch("hf-hub:org/model/model.pth") == before


def test_a_branch_with_a_slash_in_its_name_is_a_revision(hub: FakeHub):
    commit = hub.push({"model.pth": CONTENT}, branch="refs%2Fpr%2F1")
    assert fetch("hf-hub:org/model/model.pth@refs/pr/1").revision == commit


@pytest.mark.parametrize("revision", ["", "@main", "@COMMIT"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_file_needs_no_network(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, offline: bool, revision: str
):
    commit = hub.push({"weights/model.safetensors": CONTENT})
    before = fetch(ADDRESS)
    stop(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert fetch_in_new_process(ADDRESS + revision.replace("COMMIT", commit)) == before


def test_the_token_of_the_environment_goes_to_the_hub_and_to_no_other_host(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", READER)
    commit = hub.push({"model.pth": CONTENT})
    assert fetch("hf-hub:org/gated/model.pth").revision == commit
    sent = {(host, token) for host, _, token in hub.requests}
    assert sent == {(f"127.0.0.1:{hub.port}", f"Bearer {READER}"), (f"localhost:{hub.port}", None)}


ERRORS = {
    "hf-hub:org/gated/model.pth": ("terms", "https://huggingface.co/org/gated", "HF_TOKEN"),
    "hf-hub:org/absent/model.pth": ("org/absent does not exist", "is private", "HF_TOKEN is not valid"),
    "hf-hub:org/mo--del/model.pth": ("org/mo--del does not exist",),
    "hf-hub:org/model/absent.pth": ("no file absent.pth at main", "/tree/main"),
    "hf-hub:org/model/model.pth@v9": ("no revision v9", "https://huggingface.co/org/model/commits/main"),
}


@pytest.mark.parametrize("token", [None, "hf_strangerXXXXXXXXXXXXXXXXXXXXXXX"])
@pytest.mark.parametrize("address", ERRORS)
def test_what_the_hub_refuses_is_one_sentence_without_the_token(
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    address: str,
    token: str | None,
):
    hub.push({"model.pth": CONTENT})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with raises_user_error(address, *ERRORS[address]) as caught:
        fetch(address)
    assert "XXX" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("token", ["hf_é_XXX", "hf_\x0c_XXX"])
def test_a_damaged_token_is_not_printed(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], token: str
):
    hub.push({"model.pth": CONTENT})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as caught:
        fetch("hf-hub:org/model/model.pth")
    assert "XXX" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("status", "part"), [(401, "HF_TOKEN is not valid"), (403, "terms"), (500, "HTTP status 500")]
)
def test_a_refusal_without_a_code_is_one_sentence_too(hub: FakeHub, status: int, part: str):
    hub.status = status
    with raises_user_error(ADDRESS, part):
        fetch(ADDRESS)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_sentence_names_the_file_to_get(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, offline: bool
):
    stop(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with raises_user_error(
        "https://huggingface.co/org/model/blob/v2/weights/model.safetensors", "--model.pretrained FILE"
    ) as caught:
        fetch(f"{ADDRESS}@v2")
    assert_mentions(caught.value, "offline mode" if offline else "Connection refused")


@pytest.mark.parametrize("cut", ["connection", "size"])
def test_half_a_file_is_refused_and_fetched_again(hub: FakeHub, cut: str):
    hub.push({"weights/model.safetensors": CONTENT})
    hub.cut = cut
    with raises_user_error(ADDRESS, "the download failed"):
        fetch(ADDRESS)
    hub.cut = None
    assert fetch(ADDRESS).path.read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_an_error_of_the_disk(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    hub.push({"weights/model.safetensors": CONTENT})
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError):
        fetch(ADDRESS)


@pytest.mark.parametrize(
    "address",
    [
        "hf-hub:",
        "hf-hub:model",
        "hf-hub:org/model",
        "hf-hub:org/model@main",
        "hf-hub:org/model/",
        "hf-hub:org/model/model.pth@",
        "hf-hub:org/model/model.pth@main@main",
        "hf-hub:org/model/../model.pth",
        "hf-hub:org/model/model.pth@../../main",
        "hf-hub:https://huggingface.co/org/model/model.pth",
        "hf_hub:org/model/model.pth",
    ],
)
def test_an_address_of_another_form_shows_the_right_one(hub: FakeHub, address: str):
    with raises_user_error(address, "hf-hub:ORG/REPO/FILE@REVISION", "model.safetensors@main"):
        fetch(address)
    assert hub.requests == []


@pytest.mark.parametrize("address", [ADDRESS, f"{ADDRESS}@main", f"{ADDRESS}@refs/pr/1"])
def test_a_recipe_keeps_the_address(address: str):
    value = ModelConfig(pretrained=address).pretrained
    assert is_hub_address(value) and isinstance(value, Path) and value.as_posix() == address


@pytest.mark.parametrize("value", [True, False, Path("weights.pth"), Path("my/hf-hub:org/model/weights.pth")])
def test_other_values_of_pretrained_are_not_addresses(value: bool | Path):
    assert not is_hub_address(value)


def model_from(address: str) -> torch.nn.Module:
    return create_model(ModelConfig(backbone="test_convnext", pretrained=address), 3, 32)


def test_create_model_loads_a_file_of_the_hub(hub: FakeHub):
    source = timm.create_model("test_convnext", pretrained=False).state_dict()
    hub.push({"weights/model.safetensors": save(source)})
    loaded = model_from(ADDRESS).backbone.state_dict()
    name = "stages.1.blocks.0.conv_dw.weight"
    assert torch.equal(loaded[name], source[name])


def test_create_model_repeats_what_the_hub_refuses(hub: FakeHub):
    hub.push({"model.pth": CONTENT})
    with raises_user_error("no file weights/model.safetensors at main"):
        model_from(ADDRESS)


def test_a_file_of_another_network_on_the_hub_is_refused_with_its_address(hub: FakeHub):
    hub.push({"weights/model.safetensors": save({"other": torch.zeros(1)})})
    with raises_user_error(ADDRESS, "tensors"):
        model_from(ADDRESS)
