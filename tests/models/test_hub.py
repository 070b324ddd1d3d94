"""Published weights: from the hub's cache or fetched, and told at once where the hub is out of reach."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models import look_for_weights
from fercore.models.hub import quick_hub


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_hub_that_answers_is_asked_and_another_is_not(no_proxy, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with quick_hub():
            assert not constants.HF_HUB_OFFLINE
    with quick_hub():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with quick_hub():
        assert not constants.HF_HUB_OFFLINE


def test_published_weights_that_cannot_be_had_are_told_without_a_second_trial(no_proxy, monkeypatch, tmp_path, capfd):
    trials = []

    def refuse(address, *_, **__):
        trials.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserInputError) as caught:
        look_for_weights(ModelSettings(backbone="resnet18", weights="timm"))
    assert len(trials) == 1
    assert "cannot fetch weights of 'resnet18'" in str(caught.value)
    assert "timm/resnet18.a1_in1k on the Hugging Face hub" in str(caught.value)
    assert "--set model.weights=none" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_backbone_without_published_weights_is_told_before_it_is_built():
    with pytest.raises(UserInputError, match=r"no published weights of 'mobilenetv2_035' .*--set model\.weights=none"):
        look_for_weights(ModelSettings(backbone="mobilenetv2_035", weights="timm"))
