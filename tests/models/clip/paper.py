"""Equations 1 to 6 of PCA (2025) as written, in float64, one sample and one head at a time, on plain tensors."""

import math

import torch


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def block(weights, name, x, heads, mask=None):
    """F_l or G_l: [n,D] -> [n,D]."""

    def get(key):
        return weights[f"{name}.{key}"]

    y = norm(x, get("ln_1.weight"), get("ln_1.bias"))
    q, k, v = (y @ get("attn.in_proj_weight").T + get("attn.in_proj_bias")).chunk(3, -1)
    d, answers = x.shape[-1] // heads, []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[:, part] @ k[:, part].T / math.sqrt(d)
        if mask is not None:
            scores = scores + mask
        answers.append(scores.softmax(-1) @ v[:, part])
    x = x + torch.cat(answers, -1) @ get("attn.out_proj.weight").T + get("attn.out_proj.bias")
    y = gelu(norm(x, get("ln_2.weight"), get("ln_2.bias")) @ get("mlp.c_fc.weight").T + get("mlp.c_fc.bias"))
    return x + y @ get("mlp.c_proj.weight").T + get("mlp.c_proj.bias")


def image(weights, picture, prompts, layers, heads, patch):
    """Eqs 1-3 for one picture [3,H,W]: prompts P_0..P_{J-1} each [k,d_v] -> x_v [d]."""
    side = picture.shape[-1] // patch
    kernel = weights["visual.conv1.weight"].flatten(1)
    patches = [
        kernel @ picture[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].flatten()
        for i in range(side)
        for j in range(side)
    ]
    x = torch.stack([weights["visual.class_embedding"], *patches]) + weights["visual.positional_embedding"]
    if len(prompts):
        x = torch.cat([x, prompts[0]])
    x = norm(x, weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    t, e, p = x[:1], x[1 : 1 + side * side], x[1 + side * side :]
    for layer in range(1, layers + 1):
        if 1 < layer <= len(prompts):
            p = prompts[layer - 1]
        out = block(weights, f"visual.transformer.resblocks.{layer - 1}", torch.cat([t, e, p]), heads)
        t, e, p = out[:1], out[1 : 1 + len(e)], out[1 + len(e) :]
    t = norm(t, weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
    return (t @ weights["visual.proj"])[0]


def text(weights, tokens, prompts, layers, heads):
    """Eqs 4-6 for one sentence [L]: prompts Q_0..Q_{J-1} each [k,d_w] at positions 1..k -> o [d]."""
    length, k = len(tokens), prompts.shape[1]
    codes = weights["positional_embedding"]
    w = weights["token_embedding.weight"][tokens] + codes
    mask = torch.full((length, length), -torch.inf, dtype=w.dtype).triu(1)
    start, q, rest = w[:1], w[1 : 1 + k], w[1 + k :]
    for layer in range(1, layers + 1):
        if layer == 1 and len(prompts):
            q = prompts[0] + codes[1 : 1 + k]
        elif layer <= len(prompts):
            q = prompts[layer - 1]
        out = block(weights, f"transformer.resblocks.{layer - 1}", torch.cat([start, q, rest]), heads, mask)
        start, q, rest = out[:1], out[1 : 1 + k], out[1 + k :]
    w = norm(torch.cat([start, q, rest]), weights["ln_final.weight"], weights["ln_final.bias"])
    return w[tokens.argmax()] @ weights["text_projection"]


def pool(weights, feature_map, prompts, heads):
    """The attention pool of a ResNet for one map [w,H,W] with prompts [k,w] as further tokens -> [d]."""

    def linear(name, x):
        return x @ weights[f"visual.attnpool.{name}.weight"].T + weights[f"visual.attnpool.{name}.bias"]

    x = feature_map.flatten(1).T
    x = torch.cat([x.mean(0, keepdim=True), x]) + weights["visual.attnpool.positional_embedding"]
    x = torch.cat([x, prompts])
    q, k, v = linear("q_proj", x[:1]), linear("k_proj", x), linear("v_proj", x)
    d = q.shape[-1] // heads
    parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
    answers = [(q[:, s] @ k[:, s].T / math.sqrt(d)).softmax(-1) @ v[:, s] for s in parts]
    return linear("c_proj", torch.cat(answers, -1))[0]
