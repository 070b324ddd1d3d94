"""Runs whose network comes from elsewhere: nothing of it in a checkpoint, resumed to the bit, refused if another."""

import pytest
import torch
from safetensors import safe_open

from fercore.builtin.supervised import SourceOnly
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks import hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.models import External, Model
from fercore.models.clip import ClipSettings, encode_images, load_clip
from fercore.runs import checkpoint


class Probe(SourceOnly):
    """A linear head on a frozen CLIP, with learnable prompts in two layers."""

    clip_seed = 0

    @hookimpl
    def build_model(self, config, num_classes):
        clip = load_clip(ClipSettings(model="tiny"), seed=self.clip_seed)
        prompts = Prompts(External(clip.network, clip.identity), clip.vision_width)
        return Model(
            prompts,
            {"main": torch.nn.Identity()},
            {"main": torch.nn.Linear(clip.dim, num_classes)},
            clip.mean,
            clip.std,
        )


class Prompts(torch.nn.Module):
    def __init__(self, clip, width):
        super().__init__()
        self.clip = clip
        self.prompts = torch.nn.Parameter(torch.randn(2, 2, width) * 0.02)

    def forward(self, images):
        return encode_images(self.clip.module, images, self.prompts)


@pytest.fixture
def probe(tiny):
    def make(clip_seed=0, **train):
        data = {**tiny["data"], "size": 64, "source_batch": 14, "target_batch": 7}
        layers = {**tiny, "data": data, "train": {**tiny["train"], **train}}
        config = assemble(["source_only"], [layers]).config.model_copy(update={"plugins": {}})
        plugin = Probe("probe", SourceOnly.Settings())
        plugin.clip_seed = clip_seed
        return build_context(ResolvedRun(config, (plugin,), (PluginInfo("probe", "tests:Probe", "tests", "0", ""),)))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("train", [{}, {"ema": 0.9}])
def test_a_resumed_run_has_the_same_bits(probe, tmp_path, listener, weights_of, train):
    whole = run(probe(**train), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(probe(**train), tmp_path / "cut", listener(stop_after=5))
    resumed = run(probe(**train), tmp_path / "cut", listener(), resume=True)
    assert resumed.target == whole.target
    left, right = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    states = [(left["model"], right["model"])]
    if train:
        states.append((left["average"]["model"], right["average"]["model"]))
    for one, other in states:
        assert list(one) == ["backbone.prompts", "backbone.clip._extra_state", "heads.main.weight", "heads.main.bias"]
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained_and_what_the_rest_is(probe, tmp_path, listener):
    context = probe()
    record = run(context, tmp_path / "run", listener())
    trained, total = record.parameters.trained, record.parameters.total
    assert total > 50 * trained
    with safe_open(checkpoint.newest(tmp_path / "run/checkpoints") / checkpoint.TENSORS, "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys() if file.get_tensor(key).is_floating_point())
        (name,) = [key for key in file.keys() if key.endswith("clip._extra_state")]
        identity = bytes(file.get_tensor(name).tolist()).decode()
    assert stored <= 3 * trained + 8  # the weights, and two moments of each
    assert '"model": "tiny"' in identity
    assert '"sha256"' in identity


def test_another_network_cannot_go_on(probe, tmp_path, listener):
    with pytest.raises(KeyboardInterrupt):
        run(probe(), tmp_path / "run", listener(stop_after=5))
    with pytest.raises(UserInputError, match="saved with another frozen network: seed was 0 and is 1"):
        run(probe(clip_seed=1), tmp_path / "run", listener(), resume=True)


def test_training_leaves_the_network_as_it_was(probe, tmp_path, listener):
    context = probe()
    before = {key: tensor.clone() for key, tensor in context.model.backbone.clip.module.state_dict().items()}
    prompts = context.model.backbone.prompts.detach().clone()
    run(context, tmp_path / "run", listener())
    after = context.model.backbone.clip.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert ((context.model.backbone.prompts - prompts).abs().sum((1, 2)) > 0).all()


def test_a_saved_model_predicts_the_same(probe, tmp_path, listener, weights_of):
    context = probe()
    run(context, tmp_path / "run", listener())
    again = probe()
    again.model.load_state_dict(weights_of(tmp_path / "run")["model"])
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = context.model.eval()(images).logits["main"]
        assert torch.equal(again.model.eval()(images).logits["main"], expected)
