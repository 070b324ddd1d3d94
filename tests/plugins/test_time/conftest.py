"""A small network in float64 and a stream through it, without images or a run folder."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.engine.online import Online
from fercore.engine.phases import runners_of
from fercore.engine.setup import build_fabric
from fercore.engine.step import StepModule
from fercore.hooks import hookimpl
from fercore.hooks.assemble import assemble
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.records.step import Batch, DomainBatch, Progress

CLASSES, SIDE = 7, 6
REGIMES = ("shuffled", "correlated", "one_class", "batch_of_one", "label_shift", "constant")


def small_network(norm=nn.BatchNorm2d):
    """Return two convolutions with norms and a linear head, with statistics as if it had been trained."""
    backbone = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 4, 3, padding=1, bias=False),
            norm1=norm(4),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False),
            norm2=norm(5),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
        )
    )
    model = Model(backbone, {"main": nn.Identity()}, {"main": nn.Linear(5, CLASSES)}, (0.5,) * 3, (0.25,) * 3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.5 if name.startswith("heads") else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + ("norm" in name))
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5 * ("var" in name))
    return model.double().eval()


def stream(regime, steps, batch=8):
    """Return the batches f[B,3,S,S] of a stream: each class has a pattern, each image noise of its own."""
    generator = torch.Generator().manual_seed(11)
    patterns = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    batch = 1 if regime == "batch_of_one" else batch
    batches = []
    for step in range(steps):
        labels = torch.randint(CLASSES, (batch,), generator=generator)
        if regime == "correlated":
            labels[: batch - 1] = step // 5 % CLASSES
        elif regime == "one_class":
            labels[:] = 2
        elif regime == "label_shift":
            labels[torch.rand(batch, generator=generator) < 0.8] = step * CLASSES // steps
        noise = torch.randn(batch, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        images = 0.8 * patterns[labels] + noise
        batches.append(images[:1].expand(batch, -1, -1, -1) * 0 + patterns[0] if regime == "constant" else images)
    return batches


class Network:
    """Answers `build_model` as a trained model does that is adapted as it is."""

    def __init__(self, model):
        self.model = model

    @hookimpl(trylast=True)
    def build_model(self):
        return self.model


def online(name, model, settings=None, *, batch=8, how=None):
    """Return a method over a network, as a run has it, and where its steps stand."""
    layer = {"data": {"target_batch": batch}, name: settings or {}, "train": {"threads": 1}}
    resolved = assemble([name], [{"device": "cpu", "stream": {"alarm": "off", **(how or {})}}, layer])
    config = resolved.config
    plugins = Plugins([Network(model), Defaults()], resolved.plugins, resolved.versions)
    built = plugins.build_model(config, CLASSES, None)
    (stage,) = plugins.plan(config, built, {}, None)
    stage = replace(stage, steps=50, epochs=None)
    fabric = build_fabric(config)
    plugins.refresh(built, Progress("stream", "", 0, 0, 50), lambda side: None, None)
    module = fabric.setup_module(StepModule(built, plugins))
    return Online(
        fabric, module, runners_of(fabric, stage, built), plugins.request_views(config), CLASSES, config.stream
    )


def answers(adapting, batches, start=0):
    """Return the probabilities f[B,K] that a method gives of each batch, adapting on the way."""
    given = []
    for step, images in enumerate(batches, start):
        n = torch.zeros(len(images), dtype=torch.int64)
        side = DomainBatch({"stream": images}, n - 1, n, n)
        nobody = DomainBatch({}, n[:0], n[:0], n[:0])
        clock = Progress("stream", "", 0, step, 50)
        probs, _ = adapting.take(Batch(nobody, side), clock)
        given.append(probs.detach())
    return given
