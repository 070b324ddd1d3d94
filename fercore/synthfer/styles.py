"""The seven domains as numbers: who is shown, how they pose, and what the camera does."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """One domain. Angles in degrees, lengths in face half-widths, noise in units of full white.

    Args:
        yaw, pitch, roll: standard deviation of the head's angles.
        zoom: range of half the image's width, in face half-widths (small = tight crop).
        shift: standard deviation of the crop's position.
        strength: range of the expression's strength.
        expressivity: range of the subjects' factor on that strength.
        narrow: whether all subjects are of one demographic.
        stray: probability that an action unit is slightly active without reason.
        label_noise: share of annotated labels that are wrong.
        detector: noise of the action-unit detector, in intensity units.
        side_light: range of the light's angle from frontal (0 = frontal, 1 = from the side).
        diffuse: range of the directed share of the light.
        occlusion: probability of something in front of the face.
        clutter: probability of each background shape.
        glasses: probability that a subject wears them.
        blur: range of the camera's blur, in parts of the image width.
        noise, shot: range of constant and of brightness-dependent sensor noise.
        gain, gamma, contrast: ranges of the tone curve.
        cast: strength of a random colour cast.
        vignette: range of the darkening towards the corners.
        jpeg: range of the block-transform quantisation step (0 = none).
        grey: whether the image has one channel, replicated.
        spectrum: "visible", "nir" or "thermal": which palette paints the face.
    """

    yaw: float = 2.5
    pitch: float = 2.0
    roll: float = 1.5
    zoom: Range = (1.42, 1.52)
    shift: float = 0.02
    strength: Range = (0.8, 1.1)
    expressivity: Range = (0.75, 1.15)
    narrow: bool = False
    stray: float = 0.03
    label_noise: float = 0.0
    detector: float = 0.4
    side_light: Range = (0.0, 0.25)
    diffuse: Range = (0.25, 0.4)
    occlusion: float = 0.0
    clutter: float = 0.0
    glasses: float = 0.1
    blur: Range = (0.0, 0.004)
    noise: Range = (0.004, 0.01)
    shot: Range = (0.0, 0.0)
    gain: Range = (0.95, 1.05)
    gamma: Range = (0.95, 1.05)
    contrast: Range = (0.95, 1.05)
    cast: float = 0.0
    vignette: Range = (0.0, 0.1)
    jpeg: Range = (0.0, 0.0)
    grey: bool = True
    spectrum: str = "visible"


TABLE: dict[str, Style] = {
    "studio": Style(strength=(0.65, 1.05), stray=0.04),
    "posed": Style(
        narrow=True, zoom=(1.22, 1.32), strength=(0.5, 0.95), expressivity=(0.85, 1.1), stray=0.04, glasses=0.0,
        blur=(0.006, 0.012), gain=(0.8, 0.95), gamma=(1.1, 1.35), contrast=(1.1, 1.3),
        vignette=(0.1, 0.3), side_light=(0.1, 0.4), diffuse=(0.35, 0.5),
    ),
    "web": Style(
        yaw=7, pitch=4, roll=3, zoom=(1.2, 1.5), shift=0.04, strength=(0.65, 1.1), stray=0.05, label_noise=0.12,
        detector=0.6, side_light=(0.0, 0.6), diffuse=(0.25, 0.5), occlusion=0.05, clutter=0.3, glasses=0.12,
        blur=(0.0, 0.01), noise=(0.005, 0.025), gain=(0.85, 1.15), gamma=(0.8, 1.2), contrast=(0.8, 1.3),
        vignette=(0.0, 0.2), jpeg=(0.01, 0.06),
    ),
    "wild": Style(
        yaw=9, pitch=5, roll=4, zoom=(1.2, 1.55), shift=0.045, strength=(0.7, 1.15), stray=0.06, label_noise=0.04,
        detector=0.6, side_light=(0.1, 0.8), diffuse=(0.3, 0.6), occlusion=0.15, clutter=0.6, glasses=0.2,
        blur=(0.004, 0.014), noise=(0.004, 0.025), gain=(0.7, 1.25), gamma=(0.75, 1.25), contrast=(0.6, 1.1),
        cast=0.2, vignette=(0.0, 0.3), jpeg=(0.0, 0.03), grey=False,
    ),
    "nir": Style(
        yaw=5, pitch=4, roll=2, zoom=(1.3, 1.55), shift=0.03, strength=(0.65, 1.05), glasses=0.15,
        side_light=(0.0, 0.15), diffuse=(0.45, 0.65), blur=(0.008, 0.016), noise=(0.01, 0.025), contrast=(0.8, 1.1),
        vignette=(0.3, 0.6), spectrum="nir",
    ),
    "dark": Style(
        yaw=5, pitch=4, roll=2, zoom=(1.3, 1.55), shift=0.03, strength=(0.7, 1.05), glasses=0.15, detector=0.6,
        side_light=(0.2, 0.8), diffuse=(0.5, 0.75), blur=(0.006, 0.014), noise=(0.01, 0.025), shot=(0.03, 0.06),
        gain=(0.2, 0.42), gamma=(0.75, 1.0), cast=0.08, vignette=(0.1, 0.4), grey=False,
    ),
    "thermal": Style(
        yaw=5, pitch=4, roll=2, zoom=(1.3, 1.6), shift=0.03, strength=(0.7, 1.1), glasses=0.12, detector=0.7,
        side_light=(0.0, 0.1), diffuse=(0.05, 0.12), blur=(0.010, 0.017), noise=(0.006, 0.014), gain=(0.8, 1.1),
        contrast=(0.9, 1.2), vignette=(0.0, 0.1), spectrum="thermal",
    ),
}  # fmt: skip
"""Style name -> its numbers."""

NATURAL_PRIOR: dict[str, tuple[float, ...]] = {
    "studio": (13, 17, 7, 20, 8, 24, 29, 5),
    "posed": (14, 14, 15, 14, 15, 14, 14, 5),
    "web": (14, 2, 14, 25, 17, 11, 17, 2),
    "wild": (6, 6, 2, 38, 16, 10, 22, 3),
    "nir": (14, 14, 14, 16, 14, 14, 14, 3),
    "dark": (14, 14, 14, 16, 14, 14, 14, 3),
    "thermal": (15, 13, 12, 20, 13, 13, 14, 3),
}
"""Style -> relative class frequencies in canonical order, skewed as collections of that kind are."""
