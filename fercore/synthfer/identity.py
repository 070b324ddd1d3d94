"""Who a subject is: proportions, colouring, hair and habits, drawn once per subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fercore.synthfer.rng import Array, Draw
from fercore.synthfer.styles import Style


@dataclass(frozen=True)
class Identity:
    """The subjects of N images; every field is f64[N] unless said otherwise. Shape fields are 0 for the average face.

    Args:
        shape: field name -> bell-shaped value of unit scale (see anatomy.py for what each moves).
        skin: tone from 0 (light) to 1 (dark).
        hair: colour from 0 (black) over brown and red to 1 (fair).
        style: i64[N] 0 bald, 1 short, 2 fringe, 3 long, 4 curly, 5 bun.
        grey_hair, beard, moustache, stubble, glasses, lipstick, age, freckles: amounts in [0,1].
        rest: f64[N,4] resting levels in [0,1] of a lowered brow, raised inner brow, drooping and rising mouth corners.
    """

    shape: dict[str, Array]
    skin: Array
    hair: Array
    style: NDArray[np.int64]
    grey_hair: Array
    beard: Array
    moustache: Array
    stubble: Array
    glasses: Array
    lipstick: Array
    age: Array
    freckles: Array
    rest: Array


SHAPE_FIELDS: tuple[str, ...] = (
    "height", "jaw", "chin", "eye_size", "eye_gap", "eye_tilt", "eye_hood", "brow_height", "brow_arch", "brow_width",
    "nose_length", "nose_width", "mouth_width", "mouth_height", "lips", "hairline", "forehead",
)  # fmt: skip


def draw_identity(draw: Draw, style: Style) -> Identity:
    """Draw subjects.

    Args:
        draw: streams keyed by subject.
        style: the domain; a narrow one has one demographic: dark hair, no beard, little variation of shape.
    """
    spread = 0.45 if style.narrow else 1.0
    shape = {name: np.clip(draw.normal(name, spread), -2.0, 2.0) for name in SHAPE_FIELDS}
    zero = np.zeros_like(draw.uniform("age"))
    bearded = draw.uniform("bearded") < 0.4
    hair_style = draw.choice("hair style", (0.06, 0.3, 0.18, 0.2, 0.16, 0.1))
    hair_style = np.where(bearded & (hair_style > 3), 1, hair_style)
    age = draw.uniform("age") ** 1.5
    beard = draw.chance("beard", 0.35) * bearded
    rest = np.stack([np.maximum(draw.normal(f"rest/{k}", 0.13), 0.0) for k in range(4)], axis=1)
    if style.narrow:
        return Identity(
            shape={**shape, "eye_hood": shape["eye_hood"] + 0.8, "eye_tilt": shape["eye_tilt"] + 0.6},
            skin=draw.uniform("skin", 0.08, 0.22), hair=draw.uniform("hair", 0.0, 0.12),
            style=np.where(draw.uniform("long") < 0.7, 3, 2), grey_hair=zero, beard=zero, moustache=zero,
            stubble=zero, glasses=zero, lipstick=draw.uniform("lipstick", 0.1, 0.5), age=0.3 * age, freckles=zero,
            rest=0.6 * rest,
        )  # fmt: skip
    return Identity(
        shape=shape,
        skin=draw.uniform("skin"),
        hair=draw.uniform("hair") ** 1.3,
        style=hair_style,
        grey_hair=np.where(age > 0.6, draw.uniform("grey hair"), 0.0),
        beard=beard,
        moustache=np.maximum(beard, draw.chance("moustache", 0.2) * bearded),
        stubble=draw.uniform("stubble") * bearded * (1.0 - beard),
        glasses=draw.chance("glasses", style.glasses),
        lipstick=draw.chance("lipstick", 0.4) * draw.uniform("lipstick strength", 0.3, 1.0) * ~bearded,
        age=age,
        freckles=draw.chance("freckles", 0.1),
        rest=rest,
    )
