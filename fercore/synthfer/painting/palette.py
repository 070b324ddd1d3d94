"""What colour everything has, in visible light, in near infrared and in the heat of a thermal camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fercore.synthfer.identity import Identity
from fercore.synthfer.rng import Array, Draw

_SKIN = np.asarray([(0.96, 0.83, 0.75), (0.89, 0.70, 0.57), (0.74, 0.53, 0.39), (0.54, 0.36, 0.26), (0.38, 0.25, 0.19)])
_HAIR = np.asarray([(0.07, 0.06, 0.06), (0.17, 0.11, 0.08), (0.34, 0.22, 0.14), (0.50, 0.24, 0.12), (0.80, 0.64, 0.40)])
_IRIS = np.asarray([(0.20, 0.12, 0.07), (0.30, 0.19, 0.10), (0.33, 0.38, 0.22), (0.30, 0.45, 0.58)])


@dataclass(frozen=True)
class Palette:
    """Colours f64[N,3] of N images; `fold` f64[N] is how dark wrinkles are, `lens` alpha f64[N] of spectacles."""

    skin: Array
    lip: Array
    hair: Array
    brow: Array
    iris: Array
    pupil: Array
    sclera: Array
    line: Array
    cavity: Array
    teeth: Array
    tongue: Array
    cloth: Array
    background: Array
    frame: Array
    glass: Array
    lens: Array
    fold: Array
    beard: Array


def ramp(table: Array, t: Array) -> Array:
    """Return the colours f64[N,3] at t f64[N] in [0,1] along a table f64[K,3]."""
    at = np.clip(t, 0.0, 1.0) * (len(table) - 1)
    # The last interval holds its end: t = 1 has no interval of its own.
    low = np.minimum(at.astype(np.int64), len(table) - 2)
    share = (at - low)[:, None]
    color: Array = table[low] * (1.0 - share) + table[low + 1] * share
    return color


def _towards(a: Array, b: Array | tuple[float, ...], share: Array | float) -> Array:
    share = np.asarray(share, dtype=np.float64).reshape(-1, 1)
    mixed: Array = a * (1.0 - share) + np.asarray(b) * share
    return mixed


def _muted(color: Array) -> Array:
    muted: Array = 0.5 * color + 0.5 * color.mean(axis=1, keepdims=True)
    return muted


def visible(who: Identity, draw: Draw, scene: Draw) -> Palette:
    """Return the colours that a colour camera sees; `draw` is keyed by subject, `scene` by image."""
    skin = ramp(_SKIN, who.skin) * (1.0 + draw.normal("skin shade", 0.02)[:, None])
    hair = _towards(ramp(_HAIR, who.hair * (1.0 - 0.6 * who.skin)), (0.72, 0.72, 0.72), 0.8 * who.grey_hair)
    lip = skin * np.asarray([0.88, 0.62, 0.60])
    lip = _towards(lip, (0.62, 0.12, 0.16), 0.7 * who.lipstick)
    cloth = _muted(np.stack([scene.uniform(f"cloth/{k}", 0.1, 0.8) for k in range(3)], axis=1))
    wall = _muted(np.stack([scene.uniform(f"wall/{k}", 0.25, 0.9) for k in range(3)], axis=1))
    flat = np.ones_like(skin)
    return Palette(
        skin=skin, lip=lip, hair=hair, brow=_towards(hair * 0.85, skin, 0.12), beard=_towards(hair, skin, 0.15),
        iris=ramp(_IRIS, draw.uniform("iris") * (1.0 - 0.8 * who.skin)), pupil=0.03 * flat, sclera=0.93 * flat,
        line=_towards(skin * 0.22, (0.05, 0.03, 0.03), 0.6), cavity=flat * np.asarray([0.20, 0.06, 0.06]),
        teeth=flat * np.asarray([0.95, 0.93, 0.88]), tongue=flat * np.asarray([0.66, 0.30, 0.30]), cloth=cloth,
        background=wall, frame=ramp(np.asarray([(0.08, 0.08, 0.08), (0.35, 0.20, 0.1)]), draw.uniform("frame")),
        glass=0.9 * flat, lens=np.full(len(skin), 0.08), fold=0.40 + 0.15 * who.skin,
    )  # fmt: skip


def near_infrared(who: Identity, draw: Draw, scene: Draw) -> Palette:
    """Return what a camera beside an infrared lamp sees: bright even skin, dark eyes, faint lips, dark room."""
    seen = visible(who, draw, scene)
    flat = np.ones_like(seen.skin)
    skin = flat * (0.80 - 0.10 * who.skin[:, None])
    hair = flat * (0.22 + 0.40 * who.hair[:, None])
    return Palette(
        skin=skin, lip=skin * (0.86 - 0.08 * who.lipstick[:, None]), hair=hair, brow=_towards(hair, skin, 0.30),
        beard=_towards(hair, skin, 0.2), iris=0.30 * flat, pupil=0.04 * flat, sclera=0.66 * flat, line=0.25 * flat,
        cavity=0.14 * flat, teeth=0.86 * flat, tongue=0.5 * flat,
        cloth=flat * scene.uniform("cloth", 0.3, 0.75)[:, None],
        background=flat * scene.uniform("wall", 0.04, 0.2)[:, None], frame=0.15 * flat, glass=0.75 * flat,
        lens=np.full(len(flat), 0.15), fold=np.full(len(flat), 0.30),
    )  # fmt: skip


def thermal(who: Identity, draw: Draw, scene: Draw) -> Palette:
    """Return temperatures as brightness: warm skin, eye corners and mouth, cool hair and nose, opaque spectacles."""
    flat = np.ones((len(who.skin), 3))
    skin = flat * (0.70 + scene.normal("warmth", 0.03))[:, None]
    brow = skin * (0.80 + draw.normal("brow heat", 0.03))[:, None]
    return Palette(
        skin=skin, lip=skin * 1.07, hair=skin * draw.uniform("hair heat", 0.45, 0.62)[:, None], brow=brow, beard=brow,
        iris=skin * 0.84, pupil=skin * 0.84, sclera=skin * 0.88, line=skin * 0.86, cavity=skin * 1.28,
        teeth=skin * 0.86, tongue=skin * 1.22, cloth=flat * scene.uniform("cloth", 0.25, 0.5)[:, None],
        background=flat * scene.uniform("wall", 0.08, 0.22)[:, None], frame=flat * 0.22, glass=flat * 0.24,
        lens=np.full(len(flat), 0.96), fold=np.full(len(flat), 0.14),
    )  # fmt: skip


SPECTRA = {"visible": visible, "nir": near_infrared, "thermal": thermal}
"""Name of a spectrum -> its palette."""
