"""The warm-up of CLIP: its loss, what it learns, that it repeats, its file, its command."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fercore_pca.warmup import Faces, Warmup, contrastive_loss, save_clip, warm_up, zero_shot
from safetensors import safe_open
from typer.testing import CliRunner

from fercore.cli import app
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from fercore.models.clip import ClipSettings, load_clip
from fercore.writing import refuse_taken


def specs(*texts):
    return tuple(map(parse_spec, texts))


PLAN = Warmup(data=specs("synthfer:studio?n=400&seed=5"), steps=3, batch=16)


def test_the_loss_is_clips_where_each_image_has_one_text():
    torch.manual_seed(0)
    images, texts, scale = torch.randn(5, 8), torch.randn(5, 8), torch.tensor(7.0)
    logits = scale * torch.cosine_similarity(images[:, None], texts[None], dim=2)
    both = [torch.nn.functional.cross_entropy(each, torch.arange(5)) for each in (logits, logits.T)]
    expected = sum(both) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, torch.eye(5, dtype=torch.bool), scale), expected)


def test_true_texts_of_other_images_are_no_negatives():
    texts = torch.eye(4, 8)
    fits = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    images = torch.stack([texts[0] + texts[1], texts[0] + texts[1], texts[2], texts[3]])
    scale = torch.tensor(50.0)
    shared = contrastive_loss(images, texts, fits, scale)
    assert 0 <= shared < 1e-3
    moved = contrastive_loss(torch.stack([texts[0], texts[1], texts[2], texts[3]]), texts, fits, scale)
    assert moved > shared + 5


def test_the_loss_by_hand():
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    fits = torch.tensor([[True, False, True], [False, True, False]])
    e = np.e
    rows = (np.log(2 * e + 1) - 1 - np.log(2) + np.log(2 + e) - 1) / 2
    columns = np.log(e + 1) - 1
    got = contrastive_loss(images, texts, fits, torch.tensor(1.0))
    assert got.item() == pytest.approx((rows + columns) / 2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "tiny-rn"])
def test_it_repeats_and_saves_what_it_made(model, tmp_path):
    plan = replace(PLAN, model=model)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    (one, report), (other, again) = warm_up(plan), warm_up(plan)
    assert torch.equal(torch.rand(2), expected)
    left, right = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert report == again
    random = load_clip(ClipSettings(model=model), seed=0).network.state_dict()
    moved = [key for key in left if not torch.equal(left[key], random[key])]
    assert "visual.conv1.weight" in moved
    assert "token_embedding.weight" in moved
    assert not one.network.training
    assert not any(p.requires_grad for p in one.network.parameters())
    path = tmp_path / "new" / "clip.safetensors"
    refuse_taken(path)
    assert not list(path.parent.iterdir())
    save_clip(one, path, plan, report)
    loaded = load_clip(ClipSettings(model=model, pretrained=str(path)), seed=9)
    assert all(torch.equal(left[key], tensor) for key, tensor in loaded.network.state_dict().items())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["image_size"]) == (model, "64")
    assert json.loads(metadata["plan"])["data"] == [str(spec) for spec in plan.data]
    assert json.loads(metadata["plan"])["steps"] == 3
    assert json.loads(metadata["report"]) == report
    assert set(json.loads(metadata["versions"])) == {"fercore", "torch", "open_clip_torch"}


def test_people_held_out_are_not_trained_on(monkeypatch):
    from fercore_pca import warmup as clip_warmup

    seen = {}
    monkeypatch.setattr(clip_warmup, "_fit", lambda clip, faces, plan, say: seen.update(trained=faces))
    monkeypatch.setattr(clip_warmup, "zero_shot", lambda clip, faces, classes: seen.update(tested=faces) or 0.0)
    warm_up(PLAN)
    trained, tested = seen["trained"], seen["tested"]
    assert len(trained) + len(tested) == 400
    assert 60 <= len(tested) <= 100
    pixels = {image.numpy().tobytes() for image in trained.images}
    assert not any(image.numpy().tobytes() in pixels for image in tested.images)
    assert any(trained.units)


def test_a_person_held_out_in_one_dataset_is_in_every_one(monkeypatch):
    from fercore_pca import warmup as clip_warmup

    seen = {}
    monkeypatch.setattr(clip_warmup, "_fit", lambda clip, faces, plan, say: seen.update(trained=faces))
    monkeypatch.setattr(clip_warmup, "zero_shot", lambda clip, faces, classes: seen.update(tested=faces) or 0.0)
    # The first 200 images of both show the same ten people.
    warm_up(replace(PLAN, data=specs("synthfer:studio?n=200&seed=5", "synthfer:studio?n=400&seed=5")))
    pixels = {image.numpy().tobytes() for image in seen["trained"].images}
    assert len(seen["trained"]) + len(seen["tested"]) == 600
    assert not any(image.numpy().tobytes() in pixels for image in seen["tested"].images)


def test_zero_shot_counts_each_class_alike(small_faces):
    clip, faces = small_faces
    accuracy = zero_shot(clip, faces, ["anger", "fear"])
    from fercore.models.clip import context_tokens

    with torch.no_grad():
        texts = clip.network.encode_text(context_tokens(clip, ["anger", "fear"], k=0))
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
        images = clip.network.encode_image((faces.images / 255 - mean) / std)
    said = torch.cosine_similarity(images[:, None], texts[None], dim=2).argmax(1).tolist()
    truth = [["anger", "fear"].index(label) for label in faces.labels]
    recalls = [np.mean([s == t for s, t in zip(said, truth, strict=True) if t == c]) for c in (0, 1)]
    assert accuracy == pytest.approx(np.mean(recalls))


@pytest.fixture
def small_faces():
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = ("anger",) * 7 + ("fear",) * 2
    return load_clip(ClipSettings(model="tiny"), seed=0), Faces(images, labels, ((),) * 9)


@pytest.mark.slow
def test_it_learns_faces_by_name():
    plan = Warmup("tiny-rn", (parse_spec("synthfer:studio?n=800&seed=5"),), steps=150, batch=32)
    losses = []
    _, report = warm_up(plan, lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.3
    assert report["after"] > report["before"] + 0.1


def test_an_unknown_model_names_the_option():
    with pytest.raises(UserInputError, match=r"\(clip warmup --model\); did you mean 'tiny'"):
        warm_up(replace(PLAN, model="tinny"))


def test_the_command(tmp_path):
    out = tmp_path / "clip.safetensors"
    line = ["clip", "warmup", "--out", str(out), "--data", PLAN.data[0], "--steps", "2", "--batch", "8"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert re.search(r"step 2 of 2: 0:00:\d\d elapsed, loss \d", result.output)
    assert "zero-shot balanced accuracy on" in result.output
    assert load_clip(ClipSettings(model="tiny", pretrained=str(out)), seed=0).model == "tiny"
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, UserInputError)
    assert "output file exists" in str(result.exception)


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (replace(PLAN, model="tinny"), "did you mean 'tiny'"),
        (replace(PLAN, data=specs("synthfer:studio?n=8")), "images of .* classes to train on"),
        (replace(PLAN, data=specs("synthfer:studyo")), "studio"),
        (replace(PLAN, steps=0), "at least one step"),
        (replace(PLAN, lr=0.0), "a learning rate above 0"),
        (replace(PLAN, lr=1e30), "not finite after . steps.*lower --lr"),
        (replace(PLAN, lr=float("nan")), "a learning rate above 0"),
        (replace(PLAN, lr=1e60), "a learning rate above 0"),
        (replace(PLAN, data=specs("synthfer:studio?n=1")), "subjects to hold out are not known.*manifest"),
        (replace(PLAN, augment="lite"), "unknown augmentation 'lite'.*did you mean 'light'"),
    ],
)
def test_bad_plans_are_one_line(plan, line):
    with pytest.raises(UserInputError, match=line) as error:
        warm_up(plan)
    assert "\n" not in str(error.value)


def test_weights_that_the_last_step_spoiled_are_not_saved(monkeypatch):
    def spoil(parameters, norm):
        for parameter in parameters:
            parameter.grad.fill_(torch.nan)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", spoil)
    with pytest.raises(UserInputError, match="weights are not finite after the last step.*lower --lr"):
        warm_up(replace(PLAN, steps=1))


def test_a_seed_that_no_generator_takes_is_refused(tmp_path):
    for seed in ("-1", str(2**64)):
        result = CliRunner().invoke(app, ["clip", "warmup", "--out", str(tmp_path / "c.safetensors"), "--seed", seed])
        assert result.exit_code == 2
        assert "--seed" in result.output


def test_where_nothing_can_be_written_nothing_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "clip.safetensors"
    result = CliRunner().invoke(app, ["clip", "warmup", "--out", str(out), "--steps", "1"])
    assert isinstance(result.exception, UserInputError)
    assert "cannot write: File exists" in str(result.exception)
    assert "step" not in result.output
