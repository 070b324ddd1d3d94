"""Compiled rasteriser: draws a list of shapes onto one canvas, with anti-aliased edges and clipping masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

FILL, STROKE, BLOB, ELLIPSE, SHADE = 0, 1, 2, 3, 4
PAINT, MULTIPLY, ADD = 0, 1, 2
SPANS = 4  # straight pieces per curve span


@njit(cache=True, nogil=True)
def _curve(points: Any, start: int, count: int, smooth: int, out: Any) -> int:
    """Write the polyline of a shape to out[M,3] (x, y, half-width); smooth 1 = closed curve, 2 = open, 0 = as is."""
    if smooth == 0:
        for i in range(count):
            out[i, :] = points[start + i, :]
        return count
    closed = smooth == 1
    m = 0
    for i in range(count if closed else count - 1):
        if closed:
            a, b, c, d = (i - 1) % count, i, (i + 1) % count, (i + 2) % count
        else:
            a, b, c, d = max(i - 1, 0), i, i + 1, min(i + 2, count - 1)
        for s in range(SPANS):
            t = s / SPANS
            # Catmull-Rom weights: the curve passes through b and c, with slopes from a and d.
            wa = 0.5 * t * (t * (2.0 - t) - 1.0)
            wb = 0.5 * (t * t * (3.0 * t - 5.0) + 2.0)
            wc = 0.5 * t * (t * (4.0 - 3.0 * t) + 1.0)
            wd = 0.5 * t * t * (t - 1.0)
            for k in range(3):
                out[m, k] = (
                    wa * points[start + a, k] + wb * points[start + b, k]
                    + wc * points[start + c, k] + wd * points[start + d, k]
                )  # fmt: skip
            m += 1
    if not closed:
        out[m, :] = points[start + count - 1, :]
        m += 1
    return m


@njit(cache=True, nogil=True)
def _edge(area: Any, height: int, width: int, x0: float, y0: float, x1: float, y1: float) -> None:
    """Add one edge's signed area to area[H,W+2]; the running sum along a row is then the coverage."""
    if y0 == y1:
        return
    sign = 1.0
    if y0 > y1:
        x0, y0, x1, y1, sign = x1, y1, x0, y0, -1.0
    slope = (x1 - x0) / (y1 - y0)
    # Cut at the top edge. The other sides need no cut: rows end with the image, and columns are clamped below.
    if y0 < 0.0:
        x0, y0 = x0 - slope * y0, 0.0
    x = x0
    for row in range(int(y0), min(height, math.ceil(y1))):
        dy = min(row + 1.0, y1) - max(float(row), y0)
        after = x + slope * dy
        left = min(max(min(x, after), 0.0), float(width))
        right = min(max(x, after, 0.0), float(width))
        x = after
        # Falling and rising edges cancel to the right of the shape.
        d = sign * dy
        first, last = int(left), math.ceil(right)
        # Within one column: the mean position of the edge gives the share on its right.
        if last <= first + 1:
            inside = 0.5 * (left + right) - first
            area[row, first] += d * (1.0 - inside)
            area[row, first + 1] += d * inside
            continue
        before = 0.0
        for column in range(first, last):  # how much of this column lies to the right of the edge
            low, high = max(float(column), left), min(column + 1.0, right)
            covered = (low - left + (high - low) * (column + 1.0 - 0.5 * (low + high))) / (right - left)
            area[row, column] += d * (covered - before)
            before = covered
        area[row, last] += d * (1.0 - before)


@njit(cache=True, nogil=True)
def _fill(cover: Any, area: Any, line: Any, m: int, box: Any) -> None:
    """Write the coverage of a closed polygon to cover[H,W] inside its box (y0, y1, x0, x1)."""
    height, width = cover.shape
    y0, y1 = box[0], box[1]
    area[y0:y1, :] = 0.0
    for i in range(m):
        j = (i + 1) % m
        _edge(area, height, width, line[i, 0], line[i, 1], line[j, 0], line[j, 1])
    for y in range(y0, y1):
        total = 0.0
        for x in range(width):
            total += area[y, x]
            # Either orientation of the outline fills it.
            cover[y, x] = min(abs(total), 1.0)


@njit(cache=True, nogil=True)
def _stroke(cover: Any, line: Any, m: int, soft: float, box: Any) -> None:
    """Write the coverage of a tapered line to cover[H,W] inside its box."""
    height, width = cover.shape
    cover[box[0] : box[1], box[2] : box[3]] = 0.0
    for i in range(m - 1):
        ax, ay, aw = line[i, 0], line[i, 1], line[i, 2]
        dx, dy, dw = line[i + 1, 0] - ax, line[i + 1, 1] - ay, line[i + 1, 2] - aw
        reach = max(aw, aw + dw) + soft + 0.5
        length2 = dx * dx + dy * dy + 1e-9
        for y in range(max(int(min(ay, ay + dy) - reach), 0), min(int(max(ay, ay + dy) + reach) + 1, height)):
            for x in range(max(int(min(ax, ax + dx) - reach), 0), min(int(max(ax, ax + dx) + reach) + 1, width)):
                px, py = x + 0.5 - ax, y + 0.5 - ay
                t = min(max((px * dx + py * dy) / length2, 0.0), 1.0)
                distance = math.sqrt((px - t * dx) ** 2 + (py - t * dy) ** 2)
                w = aw + t * dw
                # Lines thinner than their soft edge become paler rather than thinner.
                value = min(max((w - distance) / soft + 0.5, 0.0), 1.0) * min(1.0, 2.0 * w / soft)
                cover[y, x] = max(cover[y, x], value)


@njit(cache=True, nogil=True)
def _round(cover: Any, points: Any, start: int, blob: bool, soft: float, box: Any) -> None:
    """Write an ellipse (sharp, or a Gaussian blob): rows of points are (x, y, angle) and (semi-axes)."""
    cx, cy, angle = points[start, 0], points[start, 1], points[start, 2]
    a, b = max(points[start + 1, 0], 0.05), max(points[start + 1, 1], 0.05)
    c, s = math.cos(angle), math.sin(angle)
    edge = min(a, b) / soft
    for y in range(box[0], box[1]):
        for x in range(box[2], box[3]):
            dx, dy = x + 0.5 - cx, y + 0.5 - cy
            u, v = (c * dx + s * dy) / a, (c * dy - s * dx) / b
            q = u * u + v * v
            if blob:
                # Cut at three standard deviations, as far as its box reaches.
                cover[y, x] = math.exp(-0.5 * q) if q < 9.0 else 0.0
            else:
                cover[y, x] = min(max((1.0 - math.sqrt(q)) * edge + 0.5, 0.0), 1.0)


@njit(cache=True, nogil=True)
def _shade(canvas: Any, mask: Any, points: Any, start: int) -> None:
    """Light canvas[H,W,3] where mask[H,W] is set, as an ellipsoid.

    Rows of points from start: centre and angle, semi-axes, light, (ambient, directed).
    """
    height, width = mask.shape
    cx, cy, angle = points[start, 0], points[start, 1], points[start, 2]
    a, b = points[start + 1, 0], points[start + 1, 1]
    lx, ly, lz = points[start + 2, 0], points[start + 2, 1], points[start + 2, 2]
    ambient, directed = points[start + 3, 0], points[start + 3, 1]
    c, s = math.cos(angle), math.sin(angle)
    for y in range(height):
        for x in range(width):
            if mask[y, x] <= 0.0:
                continue
            dx, dy = x + 0.5 - cx, y + 0.5 - cy
            u, v = (c * dx + s * dy) / a, (c * dy - s * dx) / b
            q = u * u + v * v
            # Short of the rim, where the surface turns away: beyond the ellipsoid light stays as there.
            if q > 0.96:
                scale = math.sqrt(0.96 / q)
                u, v, q = u * scale, v * scale, 0.96
            lit = max(u * lx + v * ly + math.sqrt(1.0 - q) * lz, 0.0)
            factor = 1.0 + mask[y, x] * (ambient + directed * lit - 1.0)
            for k in range(3):
                canvas[y, x, k] *= factor


@njit(cache=True, nogil=True)
def _bounds(line: Any, m: int, pad: float, height: int, width: int, box: Any) -> None:
    """Write the pixel box (y0, y1, x0, x1) around a polyline."""
    low_x, high_x, low_y, high_y = 1e9, -1e9, 1e9, -1e9
    for i in range(m):
        w = line[i, 2] + pad
        low_x, high_x = min(low_x, line[i, 0] - w), max(high_x, line[i, 0] + w)
        low_y, high_y = min(low_y, line[i, 1] - w), max(high_y, line[i, 1] + w)
    box[0], box[1] = min(max(int(low_y), 0), height), max(min(int(high_y) + 2, height), 0)
    box[2], box[3] = min(max(int(low_x), 0), width), max(min(int(high_x) + 2, width), 0)


@njit(cache=True, nogil=True)
def _blend(canvas: Any, masks: Any, cover: Any, meta: Any, params: Any, box: Any) -> None:
    """Blend a shape's coverage into canvas[H,W,3] and, where asked, into a mask."""
    clip, store, mode, alpha = meta[4], meta[5], meta[6], params[3]
    for y in range(box[0], box[1]):
        for x in range(box[2], box[3]):
            value = cover[y, x]
            if clip > 0:
                value *= masks[clip, y, x]
            if value <= 0.0:
                continue
            if store > 0:
                masks[store, y, x] = max(masks[store, y, x], min(alpha, 1.0) * value)
            value *= alpha
            for k in range(3):
                if mode == PAINT:
                    canvas[y, x, k] += value * (params[k] - canvas[y, x, k])
                elif mode == MULTIPLY:
                    canvas[y, x, k] *= 1.0 - value * (1.0 - params[k])
                else:
                    canvas[y, x, k] += value * params[k]


@njit(cache=True, nogil=True)
def draw(canvas: Any, meta: Any, params: Any, points: Any) -> None:
    """Draw the shapes of one image.

    Args:
        canvas: f32[H,W,3], changed in place.
        meta: i64[S,7] kind, first point, points, smooth, clip mask, stored mask, mode.
        params: f32[S,5] red, green, blue, alpha, softness in pixels.
        points: f32[Q,3] x, y (pixels) and half-width or angle.
    """
    height, width, _ = canvas.shape
    cover = np.zeros((height, width), dtype=np.float32)
    area = np.zeros((height, width + 2), dtype=np.float32)
    masks = np.zeros((6, height, width), dtype=np.float32)
    line = np.zeros((256, 3), dtype=np.float32)
    box = np.zeros(4, dtype=np.int64)
    for shape in range(meta.shape[0]):
        kind, start, count = meta[shape, 0], meta[shape, 1], meta[shape, 2]
        soft = max(params[shape, 4], 0.25)
        # Less than one level of 255 (alpha 0 above all): nothing to draw.
        if params[shape, 3] <= 0.003:
            continue
        if kind == SHADE:
            _shade(canvas, masks[meta[shape, 4]], points, start)
            continue
        if kind in (BLOB, ELLIPSE):
            reach = max(points[start + 1, 0], points[start + 1, 1]) * (3.0 if kind == BLOB else 1.0) + soft
            line[0, 0], line[0, 1], line[0, 2] = points[start, 0], points[start, 1], reach
            _bounds(line, 1, 0.0, height, width, box)
            _round(cover, points, start, kind == BLOB, soft, box)
        else:
            m = _curve(points, start, count, meta[shape, 3], line)
            _bounds(line, m, soft, height, width, box)
            if kind == FILL:
                _fill(cover, area, line, m, box)
            else:
                _stroke(cover, line, m, soft, box)
        _blend(canvas, masks, cover, meta[shape], params[shape], box)
