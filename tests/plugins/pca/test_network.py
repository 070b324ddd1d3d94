"""Prompts, towers and what is computed how often, on the small CLIP."""

from __future__ import annotations

import pytest
import torch
from fercore_pca.prompts import word_embeddings
from fercore_pca.scores import cosine_logits

from fercore.models.clip import context_tokens, encode_images, encode_text
from fercore.records.step import EncodedDataset


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def built_banks(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count, dim = 9, network.banks.centres.shape[-1]
    probs = torch.randn(count, network.banks.centres.shape[1], generator=generator).softmax(-1)
    for side in ("source", "target"):
        features = torch.randn(count, dim, generator=generator)
        network.banks.fill(side, features, probs, torch.full((count,), -1), "probability")
    network.banks.settle(torch.randn(probs.shape[1], dim, generator=generator))


@pytest.mark.parametrize(("model", "rn"), [("tiny", False), ("tiny-rn", False), ("tiny-rn", True)])
def test_the_loss_reaches_every_prompted_layer(network, batch_of, images, model, rn):
    net = network(model, rn={"attnpool_prompts": rn}, prompt={"depth": 3})
    built_banks(net)
    encoded = net.encode(batch_of(images), images, "source")
    assert {name: tuple(x.shape) for name, x in encoded.logits.items()} == {"cls": (3, 3), "iga": (3, 3)}
    labels = torch.tensor([0, 1, 2])
    sum(torch.nn.functional.cross_entropy(logits, labels) for logits in encoded.logits.values()).backward()
    text = net.prompts.text
    assert text.shape == (3, 2, 64)
    assert (text.grad.abs().amax((1, 2)) > 0).all()
    maps = net.prompts.maps["shared"] if net.prompts.visual else []
    assert len(maps) == (3 if model == "tiny" else int(rn))
    assert all(layer.weight.grad.abs().sum() > 0 and layer.bias.grad.abs().sum() > 0 for layer in maps)
    learnt = {id(p) for p in net.model.parameters() if p.grad is not None}
    assert learnt == {id(p) for p in net.model.parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in net.tower.parameters())


def test_visual_prompts_are_maps_of_the_text_prompts(network, batch_of, images):
    net = network(prompt={"depth": 2, "pos": "after_cls"}, iga={"on": False})
    made = torch.stack(
        [
            torch.stack([layer.weight @ token + layer.bias for token in tokens])
            for layer, tokens in zip(net.prompts.maps["shared"], net.prompts.text, strict=True)
        ]
    )
    wanted = encode_images(net.tower.network, images, made, position="after_cls")
    with torch.no_grad():
        found = net.encode(batch_of(images), images, "source")
    torch.testing.assert_close(found.features["cls"], wanted)
    texts = encode_text(net.tower.network, net.sentences.context, net.prompts.text)
    torch.testing.assert_close(found.logits["cls"], cosine_logits(wanted, texts, net.state.scale))


def test_prompts_of_the_attention_pool_are_the_map_of_the_first_text_prompts(network, batch_of, images):
    net = network("tiny-rn", rn={"attnpool_prompts": True}, prompt={"depth": 3}, iga={"on": False})
    (layer,) = net.prompts.maps["shared"]
    made = net.prompts.text[0] @ layer.weight.T + layer.bias
    with torch.no_grad():
        found = net.encode(batch_of(images), images, "source").features["cls"]
        wanted = encode_images(net.tower.network, images, pool_prompts=made)
        bare = encode_images(net.tower.network, images)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, bare)


def test_places_of_visual_prompts_give_the_same_features(network, batch_of, images):
    found = []
    for pos in ("after_patches", "after_cls"):
        net = network(prompt={"pos": pos}, iga={"on": False})
        with torch.no_grad():
            found.append(net.encode(batch_of(images), images, "source").features["cls"])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_depth_is_what_the_towers_have(network):
    assert network().prompts.text.shape[0] == 4
    assert network("tiny-rn").prompts.text.shape[0] == 4
    assert len(network("tiny-rn", rn={"attnpool_prompts": True}).prompts.maps["shared"]) == 1
    assert not network(prompt={"visual": False}).prompts.visual


def test_words_start_the_first_layer_alone(network, clip):
    net = network(prompt={"init": "words", "k": 3})
    loaded = clip()
    tokens = loaded.tokenize(["a photo of a"])[0, 1:4]
    wanted = loaded.network.token_embedding(tokens)
    assert torch.equal(net.prompts.text[0], wanted)
    assert torch.equal(word_embeddings(loaded, 3), wanted)
    assert 0.01 < float(net.prompts.text[1:].detach().std()) < 0.03
    assert not any(torch.equal(layer, wanted) for layer in net.prompts.text[1:])
    said = loaded.tokenize(["a photo of a anger.", "a photo of a happiness.", "a photo of a sadness."])
    assert torch.equal(net.sentences.context[:, 4:], said[:, 4:])
    with torch.no_grad():
        shallow = network(prompt={"init": "words", "k": 2, "depth": 1, "visual": False}, iga={"on": False})
        torch.testing.assert_close(shallow._texts(), loaded.network.encode_text(said), rtol=1e-4, atol=1e-5)
    normal = network(prompt={"k": 4, "std": 0.5})
    assert 0.4 < float(normal.prompts.text.detach().std()) < 0.6


@pytest.mark.slow
def test_without_prompts_the_sentences_are_written_by_hand(network, batch_of, images, clip):
    loaded = clip()
    for off in ({"cpt": {"on": False}}, {"prompt": {"k": 0}}):
        net = network(**off, text={"template": "{}, a face.", "words": {"anger": "rage"}})
        assert net.prompts is None
        tokens = context_tokens(loaded, ["rage", "happiness", "sadness"], k=0, template="{}, a face.")
        with torch.no_grad():
            encoded = net.encode(batch_of(images), images, "source")
            texts = loaded.network.encode_text(tokens)
            wanted = cosine_logits(loaded.network.encode_image(images), texts, loaded.network.logit_scale.exp())
        torch.testing.assert_close(encoded.logits["cls"], wanted, rtol=1e-4, atol=1e-4)
    assert float(network(logit_scale=1).state.scale) == 1


def test_text_features_are_computed_once_a_step_and_once_an_evaluation(network, batch_of, images):
    net = network()
    built_banks(net)
    optimiser = torch.optim.SGD([p for p in net.model.parameters() if p.requires_grad], lr=0.1)
    for step in range(3):
        sides = [net.encode(batch_of(images), images, side) for side in ("source", "target")]
        assert net.sentences.computed == step + 1
        optimiser.zero_grad()
        sum(one.logits["cls"].square().sum() for one in sides).backward()
        optimiser.step()
        net.sentences.forget()
    with torch.no_grad():
        first = net.evaluate(batch_of(images), images, "target")
        for _ in range(3):
            net.evaluate(batch_of(images), images, "target")
    assert net.sentences.computed == 4
    net.encode(batch_of(images), images, "source")
    assert net.sentences.computed == 5
    fresh = encode_text(net.tower.network, net.sentences.context, net.prompts.text)
    torch.testing.assert_close(first.logits["cls"], cosine_logits(first.features["cls"], fresh, net.state.scale))


def test_text_features_follow_an_optimiser_that_leaves_no_trace(network, batch_of, images):
    net = network(iga={"on": False}, prompt={"visual": False})
    with torch.no_grad():
        before = net.evaluate(batch_of(images), images, "target").logits["cls"]
        net.prompts.text.data.mul_(20)  # as fused optimisers do: the version counter stays
        net.sentences.forget()
        after = net.evaluate(batch_of(images), images, "target").logits["cls"]
    assert not torch.allclose(before, after)


def test_text_features_of_an_evaluation_are_those_of_its_prompts(network, batch_of, images):
    net = network(iga={"on": False})
    with torch.no_grad():
        before = net.evaluate(batch_of(images), images, "target").logits["cls"]
        net.prompts.text.mul_(20)
        after = net.evaluate(batch_of(images), images, "target").logits["cls"]
        fresh = network(iga={"on": False})
        fresh.prompts.text.mul_(20)
        wanted = fresh.evaluate(batch_of(images), images, "target").logits["cls"]
    torch.testing.assert_close(after, wanted)
    assert not torch.allclose(before, after)


def test_prompts_of_each_domain_see_their_own_samples(network, batch_of, images):
    net = network(image_encoder="per_domain_prompts", iga={"on": False}, labelled=1)
    assert set(net.prompts.maps) == {"source", "target"}
    mixed = batch_of(images, domain=torch.tensor([1, 0, 1]))
    with torch.no_grad():
        found = net.encode(mixed, images, "source").features["cls"]
        own = [net.tower.encode(images, **net.prompts.vision(side)) for side in ("source", "target")]
        tested = net.evaluate(batch_of(images), images, "target").features["cls"]
        net.state.started.fill_(True)
        read = net.evaluate(mixed, images, "source", reading=True).features["cls"]
    wanted = torch.stack([own[1][0], own[0][1], own[1][2]])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tested, own[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own[0], own[1])


def test_kept_features_are_computed_once_and_to_the_bit(network, batch_of):
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    kept, fresh = (network(cpt={"on": False}, aug={"kind": "none"}, cache=cache) for cache in (True, False))
    part = kept.model.parts["pca_ifer/kept"]
    for draw in ([0, 1, 2], [4, 2, 0, 2], [5, 3, 1, 4]):
        at = torch.tensor(draw)
        one, other = (
            net.encode(batch_of(images[at], index=at), images[at], "source").features["cls"] for net in (kept, fresh)
        )
        assert torch.equal(one, other)
    assert part.computed == 6
    kept.encode(batch_of(images[:2]), images[:2], "target")
    assert part.computed == 8
    assert fresh.model.parts["pca_ifer/kept"].computed == 0
    assert not [name for name in kept.model.state_dict() if "kept" in name]


@pytest.mark.parametrize("pseudo", [True, False])
def test_sides_that_are_read_every_epoch_are_encoded_once(network, batch_of, images, pseudo):
    mode = {"target": {"mode": "pseudo"}} if pseudo else {"bank": {"refresh": "epoch"}}
    net = network(cpt={"on": False}, **mode)
    part = net.model.parts["pca_ifer/kept"]
    read = {}
    for side in ("source", "target", "source", "target"):
        net.state.started.fill_(side in read)
        with torch.no_grad():
            features = net.evaluate(batch_of(images), images, side, reading=True).features["cls"]
        assert torch.equal(read.setdefault(side, features), features)
    assert part.computed == (3 if pseudo else 6)
    net.evaluate(batch_of(images), images, "target")
    assert part.computed == (3 if pseudo else 6)
    shown = network(**mode)
    shown.state.started.fill_(True)
    with torch.no_grad():
        shown.evaluate(batch_of(images), images, "target", reading=True)
    assert shown.model.parts["pca_ifer/kept"].computed == 0


@pytest.mark.parametrize("settings", [{"aug": {"kind": "none"}}, {"cpt": {"on": False}, "aug": {"kind": "weak"}}])
def test_features_that_change_are_never_kept(network, batch_of, images, settings):
    net = network(**settings)
    net.encode(batch_of(images), images, "source")
    assert net.model.parts["pca_ifer/kept"].computed == 0


def test_images_of_another_size_are_resized(network, batch_of):
    net = network(cpt={"on": False})
    small = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = net.encode(batch_of(small), small, "source").features["cls"]
        large = torch.nn.functional.interpolate(small, (64, 64), mode="bicubic", antialias=True, align_corners=False)
        torch.testing.assert_close(found, net.tower.network.encode_image(large), rtol=1e-4, atol=1e-5)


def test_banks_are_read_with_clip_as_it_was_loaded(network, batch_of, images):
    net = network()
    with torch.no_grad():
        read = net.evaluate(batch_of(images), images, "source", reading=True)
        wanted = net.tower.network.encode_image(images)
    torch.testing.assert_close(read.features["cls"], wanted, rtol=1e-4, atol=1e-5)
    assert set(read.features) == {"cls"}


@pytest.mark.parametrize("hand_crafted", [True, False])
def test_an_absent_class_has_the_text_that_goes_with_the_images(network, hand_crafted):
    net = network(bank={"rule": "prediction"})
    zeros = torch.zeros(2, dtype=torch.int64)
    read = EncodedDataset({"cls": torch.eye(2, 64)}, {"cls": torch.eye(2, 3)}, zeros - 1, zeros, zeros)
    assert net.fill({"source": read, "target": read}, hand_crafted=hand_crafted) == 2
    with torch.no_grad():
        plain = encode_text(net.tower.network, net.sentences.plain)
        prompted = encode_text(net.tower.network, net.sentences.context, net.prompts.text)
    wanted = torch.nn.functional.normalize(plain if hand_crafted else prompted)[2]
    for side in range(2):
        torch.testing.assert_close(net.banks.centres[side, :2], torch.eye(2, 64))
        torch.testing.assert_close(net.banks.centres[side, 2], wanted)


def test_before_the_banks_are_filled_x_prime_is_the_image(network, batch_of, images):
    net = network()
    with torch.no_grad():
        encoded = net.evaluate(batch_of(images), images, "target")
    torch.testing.assert_close(encoded.logits["iga"], encoded.logits["cls"])
