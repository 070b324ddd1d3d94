"""Loading: seeds, files of every kind, tags, and one clear line for what cannot be loaded."""

import hashlib
import subprocess
import sys
import textwrap
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fercore.errors import UserInputError
from fercore.models.clip import ClipSettings, context_tokens, encode_images, encode_text, load_clip
from fercore.models.clip.configs import SMALL, clip_config, known_models


def load(model="tiny", pretrained="none", seed=0):
    return load_clip(ClipSettings(model=model, pretrained=str(pretrained)), seed=seed)


def same(one, other):
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


# Random weights


@pytest.mark.parametrize("model", ["tiny", "tiny-rn"])
def test_a_seed_decides_the_weights_and_moves_no_generator(model):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = load(model, seed=1), load(model, seed=1), load(model, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert same(first, again)
    assert not same(first, other)
    assert first.identity == again.identity != other.identity
    assert first.identity["seed"] == 1


def test_what_is_known_of_the_small_models(small, small_rn):
    assert (small.kind, small.image_size, small.dim, small.context_length) == ("vit", 64, 64, 32)
    assert small.vision_layers == small.text_layers == 4
    assert (small_rn.kind, small_rn.vision_layers, small_rn.vision_width) == ("resnet", 0, 512)
    for clip in (small, small_rn):
        assert not clip.network.training
        assert not any(p.requires_grad for p in clip.network.parameters())
        assert clip.mean == open_clip.OPENAI_DATASET_MEAN


def test_blocks_can_be_recomputed():
    clip = load_clip(ClipSettings(model="tiny", checkpoint_blocks=True), seed=0)
    assert clip.network.transformer.grad_checkpointing
    assert clip.network.visual.transformer.grad_checkpointing


# Models


@pytest.mark.slow
def test_models_of_many_kinds_take_prompts_at_every_layer():
    from fercore.models.clip import load as loading

    for name in ("ViT-S-32-alt", "ViT-B-32-quickgelu", "RN50"):
        with torch.device("meta"):
            network = loading._build(clip_config(name, where="model")).eval()
            clip = loading._describe(network, name, ((0, 0, 0), (1, 1, 1)), {})
            pictures = torch.zeros(1, 3, clip.image_size, clip.image_size)
            if clip.kind == "vit":
                image = encode_images(network, pictures, torch.zeros(clip.vision_layers, 2, clip.vision_width))
            else:
                image = encode_images(network, pictures, pool_prompts=torch.zeros(2, clip.vision_width))
            tokens = torch.zeros(2, clip.context_length, dtype=torch.long)
            text = encode_text(network, tokens, torch.zeros(clip.text_layers, 2, clip.text_width))
        assert (image.shape, text.shape) == ((1, clip.dim), (2, clip.dim)), name
    assert {"ViT-B-16", "ViT-B-32-quickgelu", "ViT-L-14", "RN50", "RN101"} < set(known_models())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coca_ViT-B-32", "caption decoder"),
        ("ViT-B-16-SigLIP", "timm"),
        ("xlm-roberta-base-ViT-B-32", "transformers"),
        ("ViT-L-14-CLIPA", "bert"),
        ("ViT-B/16", "did you mean 'ViT-B-16'"),
        ("tinny", "did you mean 'tiny'"),
    ],
)
def test_other_models_are_refused_with_the_nearest(name, reason):
    with pytest.raises(UserInputError, match=reason):
        load(name)


# Files


def test_files_of_all_kinds_hold_the_same_weights(tmp_path, small):
    state = load(seed=5).network.state_dict()
    paths = {name: tmp_path / name for name in ("a.safetensors", "a.pt", "a.bin", "module.pth")}
    save_file(dict(state), paths["a.safetensors"])
    torch.save(state, paths["a.pt"])
    torch.save({"state_dict": {key: tensor.half() for key, tensor in state.items()}}, paths["a.bin"])
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, paths["module.pth"])
    expected = load(seed=5)
    for name, path in paths.items():
        got = load(pretrained=path)
        if name == "a.bin":
            torch.testing.assert_close(dict(got.network.state_dict()), dict(state), atol=1e-3, rtol=1e-3)
            assert {p.dtype for p in got.network.parameters()} == {torch.float32}
        else:
            assert same(got, expected)
        assert got.identity == {"model": "tiny", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_file_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(dict(load(seed=5).network.state_dict()), tmp_path / "clip.safetensors")
    assert same(load(pretrained="~/clip.safetensors"), load(seed=5))


def test_both_layouts_of_the_text_tower_are_read(tmp_path):
    from fercore.models.clip.files import fit_state

    plain = open_clip.CLIP(**SMALL["tiny"])
    custom = open_clip.CustomTextCLIP(**SMALL["tiny"])
    custom.load_state_dict(fit_state(plain.state_dict(), custom, where="x"))
    tokens = torch.randint(1, 2046, (2, 32))
    torch.testing.assert_close(plain.eval().encode_text(tokens), custom.eval().encode_text(tokens))
    back = fit_state(custom.state_dict(), plain, where="x")
    assert all(torch.equal(back[key], tensor) for key, tensor in plain.state_dict().items())


class Scripted(torch.nn.Module):
    """A CLIP with the buffers that OpenAI's archives have."""

    def __init__(self, network):
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(1))

    def forward(self, x):
        return self.visual(x) @ self.text_projection


def archive(path, network):
    traced = torch.jit.trace(Scripted(network), torch.zeros(1, 3, 64, 64), check_trace=False)
    torch.jit.save(traced, str(path))
    return traced


@pytest.mark.filterwarnings("ignore")
def test_an_openai_archive_is_read_as_data(tmp_path, caplog):
    network = load(seed=3).network
    path = tmp_path / "openai.pt"
    archive(path, network)
    with zipfile.ZipFile(path) as parts:
        assert any(name.endswith("constants.pkl") for name in parts.namelist())
    got = load(pretrained=path)
    for key, tensor in network.state_dict().items():
        assert torch.equal(got.network.state_dict()[key], tensor), key
    assert type(got.network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert "QuickGELU" in caplog.text
    assert type(load().network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"


def test_an_archive_with_anything_else_is_refused(tmp_path):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("a/constants.pkl", b"")
        parts.writestr("a/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserInputError, match=r"names os.system.*torch.save\(torch.jit.load"):
        load(pretrained=path)
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("a/constants.pkl", b"")
        parts.writestr("a/data.pkl", b"\x80\x02}q")
    with pytest.raises(UserInputError, match="cannot read TorchScript archive"):
        load(pretrained=path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = dict(load().network.state_dict())
    state["visual.proj"] = torch.zeros(3, 4)
    del state["ln_final.bias"]
    state["extra.weight"] = torch.zeros(1)
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(UserInputError) as error:
        load(pretrained=path)
    text = str(error.value)
    width = SMALL["tiny"]["vision_cfg"]["width"]
    assert f"visual.proj is (3, 4) in the file, ({width}, 64) in the network" in text
    assert "ln_final.bias is missing" in text
    assert "extra.weight is unknown" in text
    assert "\n" not in text
    with pytest.raises(UserInputError, match=r"and \d+ more .*choose the model"):
        load("tiny-rn", path)


def test_a_file_names_its_model(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(dict(load().network.state_dict()), path, {"model": "tiny"})
    assert load(pretrained=path).model == "tiny"
    with pytest.raises(UserInputError, match="of CLIP model 'tiny', not of 'tiny-rn'.*--set clip.model=tiny"):
        load("tiny-rn", path)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pt", "folder/none"])
def test_missing_files_are_one_line(tmp_path, name):
    with pytest.raises(UserInputError, match="weights file not found"):
        load(pretrained=tmp_path / name)


def test_files_that_hold_no_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(UserInputError, match="cannot read weights"):
        load(pretrained=path)
    path = tmp_path / "w.pt"
    torch.save({"a": 1}, path)
    with pytest.raises(UserInputError, match="no plain state dict"):
        load(pretrained=path)


# Tags


def test_unknown_tags_name_the_nearest():
    with pytest.raises(UserInputError, match=r"\(clip.pretrained\); did you mean 'openai'"):
        load("RN50", "openia")
    with pytest.raises(UserInputError, match="no published weights"):
        load("tiny", "openai")


def test_a_tag_without_a_network_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("fercore.models.clip.fetch.download_pretrained", offline)
    monkeypatch.setattr("fercore.models.clip.load.clip_config", lambda name, where: SMALL["tiny"])
    with pytest.raises(UserInputError) as error:
        load("ViT-B-16", "openai")
    text = str(error.value)
    assert "cannot fetch weights 'openai' of 'ViT-B-16' (OSError)" in text
    assert "pretrained=/path/to/file" in text
    assert "model=ViT-B-16-quickgelu" in text
    assert "\n" not in text


def test_a_tag_loads_what_was_fetched(monkeypatch, tmp_path):
    path = tmp_path / "fetched.safetensors"
    save_file(dict(load(seed=9).network.state_dict()), path)
    published = {"hf_hub": "x", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setattr("fercore.models.clip.load.list_pretrained_tags_by_model", lambda model: ["ours_v1"])
    monkeypatch.setattr("fercore.models.clip.load.get_pretrained_cfg", lambda model, tag: published)
    monkeypatch.setattr("fercore.models.clip.fetch.download_pretrained", lambda cfg: str(path))
    clip = load(pretrained="ours-v1")
    assert same(clip, load(seed=9))
    assert (clip.mean, clip.std) == (published["mean"], published["std"])
    assert clip.identity == {"model": "tiny", "pretrained": "ours_v1"}
    assert type(clip.network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserInputError, match="cannot be read"):
        load(pretrained="ours-v1")


# Sentences


@pytest.mark.parametrize("k", [1, 2, 5])
def test_sentences_have_room_for_prompts(small, k):
    tokens = context_tokens(small, ["happiness", "anger", "very_angry"], k=k)
    start, end = small.tokenizer.ends
    assert tokens.shape == (3, 32)
    assert (tokens[:, 0] == start).all()
    placeholder = small.tokenizer.encode("X")
    assert len(placeholder) == 1
    assert (tokens[:, 1 : 1 + k] == placeholder[0]).all()
    for row, name in zip(tokens.tolist(), ["happiness", "anger", "very angry"], strict=True):
        rest = row[1 + k : row.index(end)]
        assert rest == small.tokenizer.encode(f"{name}.") == [*small.tokenizer.encode(name), rest[-1]]
        assert set(row[row.index(end) + 1 :]) <= {0}
        assert max(row) == end


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_words_without_a_prompt_stay_in_the_sentence(small, k):
    words = small.tokenizer.encode("a photo of a")
    start, end = small.tokenizer.ends
    for row, name in zip(
        context_tokens(small, ["fear", "very_angry"], k=k, words="a photo of a").tolist(),
        ["fear", "very angry"],
        strict=True,
    ):
        room = small.tokenizer.encode("X") * k
        assert row[: row.index(end)] == [start, *room, *words[k:], *small.tokenizer.encode(f"{name}.")]


def test_without_prompts_the_template_is_used(small):
    assert torch.equal(context_tokens(small, ["fear"], k=0), small.tokenize(["a photo of a fear."]))
    assert torch.equal(context_tokens(small, ["fear"], k=0, template="{} face"), small.tokenize(["fear face"]))


def test_the_short_vocabulary_is_the_head_of_clips_own(small):
    whole, short = open_clip.get_tokenizer("ViT-B-32"), small.tokenizer
    assert short.ends == (2046, 2047)
    text = "a smiling face, with raised brows & Zürich 42"
    assert max(short.encode(text)) < 2046
    assert short._words.decode(short.encode(text)) == whole.decode(whole.encode(text))
    common = [t for t in whole.encode("the a of in and") if t < 2046]
    assert common == short.encode("the a of in and")


@pytest.mark.slow
def test_loading_leaves_the_programs_logging_alone():
    code = """
        import logging
        from fercore.models.clip import ClipSettings, context_tokens, load_clip
        context_tokens(load_clip(ClipSettings(model="tiny"), seed=0), ["fear"], k=2)
        print(logging.getLogger().handlers)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_bad_sentences_are_one_line(small):
    with pytest.raises(UserInputError, match="text is too long: .* takes 32"):
        context_tokens(small, [" ".join(["anger"] * 40)], k=2)
    with pytest.raises(UserInputError, match=r"28 prompts a layer do not fit .* 32 tokens .*; 27 at most"):
        context_tokens(small, ["fear", "anger"], k=28)
    assert context_tokens(small, ["fear", "anger"], k=27).shape == (2, 32)
    with pytest.raises(UserInputError, match="-1 prompts"):
        context_tokens(small, ["anger"], k=-1)
    for template in ("a photo", "{} and {}"):
        with pytest.raises(UserInputError, match=r"needs \{\} once"):
            context_tokens(small, ["anger"], k=0, template=template)
