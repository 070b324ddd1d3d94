"""Seconds and memory of prompted CLIP at full size: training steps and evaluation on the CPU, random weights.

    python bench/bench_clip.py --model ViT-B-16 --batch 32 --steps 2

A step encodes a batch with prompts in nine layers of both towers (k = 2, seven classes), cross-entropy on scaled
cosines, backward to the prompts, SGD. Results are printed as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

import torch
import torch.nn.functional as F

from fercore.models.clip import ClipSettings, context_tokens, encode_images, encode_text, load_clip

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    clip = load_clip(ClipSettings(model=args.model, checkpoint_blocks=args.recompute), seed=0)
    loaded = time.perf_counter() - begun
    tokens = context_tokens(clip, CLASSES, k=args.k)
    text = torch.nn.Parameter(torch.randn(min(args.depth, clip.text_layers), args.k, clip.text_width) * 0.02)
    seen = prompts_for(clip, args)
    optimiser = torch.optim.SGD([text, *seen.values()], 0.003, 0.9)
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, clip.image_size, clip.image_size)
    labels = torch.arange(args.batch) % len(CLASSES)
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        loss = F.cross_entropy(logits(clip, images, tokens, text, seen), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    with torch.no_grad():
        logits(clip, images, tokens, text, seen)
    evaluation = time.perf_counter() - start
    report = {
        "model": args.model,
        "batch": args.batch,
        "image_size": clip.image_size,
        "threads": args.threads,
        "load": os.getloadavg()[0],
        "recompute": args.recompute,
        "load_seconds": round(loaded, 2),
        "step_seconds": [round(value, 2) for value in seconds],
        "evaluation_seconds": round(evaluation, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "loss": round(float(loss.detach()), 4),
        "layers_with_gradient": [int((p.grad.flatten(1).abs().sum(1) > 0).sum()) for p in (text, *seen.values())],
        "torch": torch.__version__,
    }
    print(json.dumps(report))


def prompts_for(clip, args):
    if clip.kind == "resnet":
        return {"pool_prompts": torch.nn.Parameter(torch.randn(args.k, clip.vision_width) * 0.02)}
    shape = (min(args.depth, clip.vision_layers), args.k, clip.vision_width)
    return {"prompts": torch.nn.Parameter(torch.randn(shape) * 0.02)}


def logits(clip, images, tokens, text, seen):
    image = F.normalize(encode_images(clip.network, images, **seen), dim=1)
    return clip.network.logit_scale.exp() * image @ F.normalize(encode_text(clip.network, tokens, text), dim=1).T


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--depth", type=int, default=9)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recompute", action="store_true", help="recompute blocks in the backward pass")
    return parser.parse_args()


if __name__ == "__main__":
    main()
