"""A LA-CMFER step as its released code is built, written again in plain PyTorch for the benchmark.

The same layers (ResNet-18 up to conv3, attention blocks, four quarters), the same losses, in the forms of the released
code: an [n,n,D] tensor of differences for a kernel, one loss a pair of classes with a loop of its own.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from timm.layers.cbam import CbamModule
from torch import nn

from bench.ops.forms import _released_classes, _released_kernel, mpc_released


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, attention):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            CbamModule(outputs, rd_ratio=1 / 16) if attention else nn.Identity(),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def blocks(inputs, outputs, depth, attention):
    later = [Block(outputs, outputs, 1, attention) for _ in range(depth - 1)]
    return nn.Sequential(Block(inputs, outputs, 2, attention), *later)


class Network(nn.Module):
    """Shared encoder, global branch, local branch, two classifiers, with the paper's widths."""

    def __init__(self, classes=7):
        super().__init__()
        net = timm.create_model("resnet18")
        self.encoder = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool, net.layer1, net.layer2)
        self.whole = nn.Sequential(blocks(128, 256, 6, True), blocks(256, 1024, 3, True))
        self.quarters = nn.ModuleList(blocks(128, 256, 2, False) for _ in range(4))
        self.heads = nn.ModuleList(nn.Linear(1024, classes) for _ in range(2))

    def forward(self, images):
        x = self.encoder(images)
        h, w = x.shape[2] // 2, x.shape[3] // 2
        cut = (x[:, :, :h, :w], x[:, :, :h, w:], x[:, :, h:, :w], x[:, :, h:, w:])
        local = torch.cat([part(piece).mean((2, 3)) for part, piece in zip(self.quarters, cut, strict=True)], 1)
        features = self.whole(x).mean((2, 3)), local
        return features, [head(f) for head, f in zip(self.heads, features, strict=True)]


def hardness(probs, labels):
    """Eqs 3-4 with the reliability mask of eps 0.4; sums to 1 where any sample is reliable."""
    rest = probs.scatter(1, labels[:, None], 0.0).square().sum(1).sqrt() * (probs.amax(1) >= 0.4)
    return rest / rest.sum().clamp_min(1e-12)


def losses(source, target, labels):
    """Eq 14 of one source."""
    total = sum(F.cross_entropy(logits, labels) for logits in source[1])
    for f_s, f_t, z_s, z_t in zip(source[0], target[0], source[1], target[1], strict=True):
        guess = z_t.argmax(1)
        weights = hardness(z_s.detach().softmax(1), labels), hardness(z_t.detach().softmax(1), guess)
        signed = torch.cat([weights[0], -weights[1]])
        sample = (signed[:, None] * signed * _released_kernel(f_s, f_t)).sum()
        total = total + 0.4 * (sample + 0.02 * _released_classes(f_s, f_t, labels, guess, z_s.shape[1]))
    p, q = (logits.softmax(1) for logits in target[1])
    total = total + 0.5 * mpc_released(p[None], q[None])
    vote, surest = p.argmax(1), torch.maximum(p.amax(1), q.amax(1))
    chosen = ((vote == q.argmax(1)) & (surest > 0.9)).float()
    voted = sum(F.cross_entropy(logits, vote, reduction="none") for logits in target[1])
    return total + 0.1 * (voted * chosen).mean()


class Loop:
    """The network, its optimiser and one fixed batch of each side."""

    def __init__(self, size, batch):
        torch.manual_seed(0)
        self.network = Network().train()
        encoder = list(self.network.encoder.parameters())
        known = {id(p) for p in encoder}
        groups = [{"params": encoder, "lr": 0.001}]
        groups.append({"params": [p for p in self.network.parameters() if id(p) not in known], "lr": 0.01})
        self.optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self.images = [torch.randn(batch, 3, size, size) for _ in range(2)]
        self.labels = torch.arange(batch) % 7

    def step(self):
        source, target = (self.network(images) for images in self.images)
        loss = losses(source, target, self.labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
