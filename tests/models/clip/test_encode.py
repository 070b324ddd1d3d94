"""Encoders with prompts: open_clip's own without them, the paper's equations with them, gradients, bad shapes."""

from copy import deepcopy

import open_clip
import pytest
import torch

from fercore.models.clip import context_tokens, encode_images, encode_text
from fercore.models.clip.configs import SMALL


def images(clip, n=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, clip.image_size, clip.image_size, generator=generator, dtype=dtype)


def prompts(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.5


def double(clip):
    network = deepcopy(clip.network).double()
    return network, {key: tensor for key, tensor in network.state_dict().items()}


# Without prompts


def variant(vision=None, text=None, *, custom=False):
    config = deepcopy(SMALL["tiny"])
    config["vision_cfg"] |= vision or {}
    config["text_cfg"] |= text or {}
    torch.manual_seed(0)
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()


def turned(network):
    """The same network with its blocks in the layout (tokens, batch, width)."""
    for transformer in (network.visual.transformer, network.transformer):
        transformer.batch_first = False
        for block in transformer.resblocks:
            block.attn.batch_first = False
    return network


VARIANTS = {
    "plain": variant,
    "tokens first": lambda: turned(variant()),
    "custom text": lambda: variant(custom=True),
    "text without a mask": lambda: variant(text={"no_causal_mask": True, "pool_type": "last"}, custom=True),
    "class token of the text": lambda: variant(text={"embed_cls": True}, custom=True),
    "mean of patches": lambda: variant({"pool_type": "avg"}),
    "norm after pool": lambda: variant({"pool_type": "avg", "final_ln_after_pool": True}),
    "no norm before": lambda: variant({"no_ln_pre": True}),
    "patch dropout": lambda: variant({"patch_dropout": 0.5}),
    "layer scale": lambda: variant({"ls_init_value": 0.1}),
    "attentional pool": lambda: variant({"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 3}),
    "own attention": lambda: variant({"qk_norm": True, "scale_attn": True}),
    "tokens returned": lambda: variant({"output_tokens": True}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_without_prompts_is_open_clips_own(name):
    network = VARIANTS[name]()
    pictures = torch.randn(2, 3, 64, 64)
    tokens = torch.randint(1, 2046, (3, 32))
    tokens[:, 9], tokens[:, 10:] = 2047, 0
    with torch.no_grad():
        expected = network.encode_image(pictures)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(encode_images(network, pictures), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(encode_text(network, tokens), network.encode_text(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_prompts_enter_every_variant(name):
    network = VARIANTS[name]().requires_grad_(False)
    pictures, tokens = torch.randn(2, 3, 64, 64), torch.randint(1, 2046, (3, 32))
    seen, said = prompts(4, 2, 96).requires_grad_(), prompts(4, 2, 64).requires_grad_()
    image, text = encode_images(network, pictures, seen), encode_text(network, tokens, said)
    assert image.shape == (2, 64)
    assert text.shape == (3, 64)
    (image.square().sum() + text.square().sum()).backward()
    assert (seen.grad.abs().sum((1, 2)) > 0).all()
    assert (said.grad.abs().sum((1, 2)) > 0).all()


def test_resnet_without_prompts_is_open_clips_own(small_rn):
    pictures, tokens = images(small_rn), small_rn.tokenize(["a smile.", "a frown."])
    with torch.no_grad():
        own = small_rn.network.encode_image(pictures)
        torch.testing.assert_close(encode_images(small_rn.network, pictures), own, atol=1e-6, rtol=0)
        own = small_rn.network.encode_text(tokens)
        torch.testing.assert_close(encode_text(small_rn.network, tokens), own, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16", "RN50"])
def test_full_size_without_prompts_is_open_clips_own(name):
    from fercore.models.clip import ClipSettings, load_clip

    clip = load_clip(ClipSettings(model=name), seed=0)
    pictures, tokens = images(clip, 1), clip.tokenize(["a photo of a happy face."])
    with torch.no_grad():
        own = clip.network.encode_image(pictures)
        torch.testing.assert_close(encode_images(clip.network, pictures), own, atol=1e-6, rtol=0)
        own = clip.network.encode_text(tokens)
        torch.testing.assert_close(encode_text(clip.network, tokens), own, atol=1e-6, rtol=0)


def test_the_network_is_its_own_again_after_a_failure(small):
    with pytest.raises(RuntimeError):
        encode_images(small.network, torch.zeros(1, 3, 32, 32))
    assert "forward" not in vars(small.network.visual.transformer)


# The paper's equations


@pytest.mark.parametrize(("depth", "k"), [(0, 2), (1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("position", ["after_patches", "after_cls"])
def test_equations_1_to_3(paper, small, depth, k, position):
    network, weights = double(small)
    pictures, given = images(small, dtype=torch.float64), prompts(depth, k, 96, dtype=torch.float64)
    got = encode_images(network, pictures, given, position=position)
    expected = torch.stack([paper.image(weights, picture, given, 4, 6, 16) for picture in pictures])
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("depth", "k"), [(0, 2), (1, 1), (2, 3), (4, 2)])
def test_equations_4_to_6(paper, small, depth, k):
    network, weights = double(small)
    tokens, given = context_tokens(small, ["happiness", "anger"], k=k), prompts(depth, k, 64, dtype=torch.float64)
    got = encode_text(network, tokens, given)
    expected = torch.stack([paper.text(weights, row, given, 4, 4) for row in tokens])
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_attention_pool_with_prompts(paper, small_rn):
    network, weights = double(small_rn)
    visual, given = network.visual, prompts(3, 512, dtype=torch.float64)
    pictures = images(small_rn, dtype=torch.float64)
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pictures)))))
    expected = torch.stack([paper.pool(weights, one, given, visual.attnpool.num_heads) for one in maps])
    torch.testing.assert_close(encode_images(network, pictures, pool_prompts=given), expected, atol=1e-10, rtol=0)


# Gradients


def test_every_prompted_layer_learns_and_nothing_else_moves(small):
    before = {key: tensor.clone() for key, tensor in small.network.state_dict().items()}
    seen = torch.nn.Parameter(prompts(3, 2, 96))
    said = torch.nn.Parameter(prompts(4, 2, 64))
    optimiser = torch.optim.SGD([seen, said], 0.1)
    tokens = context_tokens(small, ["happiness", "anger"], k=2)
    image, text = encode_images(small.network, images(small), seen), encode_text(small.network, tokens, said)
    torch.cosine_similarity(image, text).sum().backward()
    for grad in (seen.grad, said.grad):
        assert (grad.abs().sum((1, 2)) > 0).all()
    optimiser.step()
    assert all(p.grad is None for p in small.network.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in small.network.state_dict().items())


def test_pool_prompts_learn(small_rn):
    given = prompts(2, 512).requires_grad_()
    encode_images(small_rn.network, images(small_rn), pool_prompts=given).square().sum().backward()
    assert (given.grad.abs().sum(1) > 0).all()


def test_recomputed_blocks_give_the_same_gradient(small):
    network = deepcopy(small.network)
    tokens = context_tokens(small, ["happiness", "anger"], k=2)
    grads = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        seen, said = prompts(2, 2, 96).requires_grad_(), prompts(2, 2, 64).requires_grad_()
        image, text = encode_images(network, images(small), seen), encode_text(network, tokens, said)
        (image * text).sum().backward()
        grads.append((seen.grad, said.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_autocast_keeps_prompts_in_use(small):
    given = prompts(2, 2, 96).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        encode_images(small.network, images(small), given).float().sum().backward()
    assert (given.grad.abs().sum((1, 2)) > 0).all()


# Bad prompts


def test_wrong_prompts_are_refused(small, small_rn):
    pictures, tokens = images(small, 1), small.tokenize(["a"])
    with pytest.raises(ValueError, match=r"not \(layers, k, 96\)"):
        encode_images(small.network, pictures, prompts(2, 2, 64))
    with pytest.raises(ValueError, match="5 layers, the tower has 4"):
        encode_images(small.network, pictures, prompts(5, 2, 96))
    with pytest.raises(ValueError, match="unknown position 'before'"):
        encode_images(small.network, pictures, prompts(2, 2, 96), position="before")
    with pytest.raises(ValueError, match="this image tower is a ViT"):
        encode_images(small.network, pictures, pool_prompts=prompts(2, 96))
    with pytest.raises(ValueError, match="give pool_prompts instead"):
        encode_images(small_rn.network, pictures, prompts(2, 2, 96))
    with pytest.raises(ValueError, match=r"not \(k, 512\)"):
        encode_images(small_rn.network, pictures, pool_prompts=prompts(2, 96))
    with pytest.raises(ValueError, match="31 prompts do not fit into 32 tokens"):
        encode_text(small.network, tokens, prompts(1, 31, 64))
