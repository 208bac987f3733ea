"""The light that the retina returns: anatomy and lesions as a picture without a camera."""

import cv2
import numpy as np

from dr.fundus.synthetic.anatomy import Eye, Vessels
from dr.fundus.synthetic.lesions import Lesions
from dr.fundus.synthetic.paint import (
    Floats,
    blobs,
    blur,
    coverage,
    distance,
    fill,
    floats,
    mesh,
    resize,
    ribbons,
    smooth_noise,
)

RETINA = floats([0.80, 0.50, 0.30])
DISC = floats([1.10, 0.72, 0.40])
CUP = floats([1.20, 1.02, 0.66])
EXUDATE = floats([1.12, 0.98, 0.52])
WOOL = floats([1.02, 0.90, 0.72])
DRUSE = floats([0.98, 0.78, 0.45])
PRERETINAL = floats([0.44, 0.09, 0.05])
VITREOUS = floats([0.22, 0.09, 0.05])

# Absorbance in red, green and blue.
MELANIN = floats([0.55, 0.78, 0.95])
CHOROID = floats([-0.10, -0.30, -0.20])
MACULA = floats([0.30, 0.42, 0.35])
FOVEA = floats([0.40, 0.60, 0.50])
VEIN = floats([0.42, 0.84, 0.58])
ARTERY = floats([0.08, 0.50, 0.44])
BLOOD = floats([0.50, 1.15, 0.90])
FRESH = floats([0.20, 0.80, 0.62])
GRAIN = floats([0.030, 0.040, 0.035])
SHEEN = floats([-0.22, -0.30, -0.42])


def render_retina(rng: np.random.Generator, eye: Eye, lesions: Lesions, side: int) -> Floats:
    """The retina of a right eye as (side, side, 3) float32, RGB, mostly within 0..1.

    `rng` is only used for texture, in the same way whatever the lesions.
    """
    picture = resize(render_ground(rng, eye, (side + 1) // 2), side)
    grain = blur(rng.standard_normal((side, side), dtype=np.float32), 0.7)
    layers = [
        (vessel_layer(eye.veins, side, lesions.beading), VEIN),
        (vessel_layer(eye.arteries, side), ARTERY),
        (vessel_layer([lesions.new_vessels], side), FRESH),
        (blood_layer(lesions, side), BLOOD),
        (grain, GRAIN),
    ]
    picture *= transmittance(layers)
    return add_deposits(picture, lesions, side)


def transmittance(layers: list[tuple[Floats, Floats]]) -> Floats:
    """What passes (side, side) densities of given absorbances: (side, side, 3) in 0..1."""
    present = [layer for layer in layers if layer[0].any()]
    density = cv2.merge([layer[0] for layer in present])
    return floats(cv2.exp(cv2.transform(density, -np.stack([layer[1] for layer in present]).T)))


def render_ground(rng: np.random.Generator, eye: Eye, side: int) -> Floats:
    """Pigment, choroid, macula and disc, without vessels: (side, side, 3)."""
    patient = eye.patient
    to_fovea = distance(side, eye.fovea) / eye.span
    melanin = 0.25 + 1.1 * patient.pigment + 0.10 * smooth_noise(rng, side, 7)
    melanin += 0.05 * smooth_noise(rng, side, 40)
    layers = [
        (melanin, MELANIN),
        (choroid_layer(eye, side) * (0.15 + 1.5 * patient.tessellation), CHOROID),
        (floats(np.exp(-((to_fovea / 0.42) ** 2))), MACULA * (0.5 + 0.5 * patient.pigment)),
        (floats(np.exp(-((to_fovea / 0.15) ** 2))), FOVEA * (0.5 + 0.5 * patient.pigment)),
        (sheen_layer(rng, eye, side), SHEEN * patient.sheen),
    ]
    colour = RETINA * np.exp(patient.hue * floats([0.02, -0.07, -0.10]))
    ground = colour * transmittance(layers)
    return add_disc(rng, add_drusen(rng, ground, eye), eye)


def choroid_layer(eye: Eye, side: int) -> Floats:
    """The choroid's vessels, -0.5 between to 0.5 on them; hidden under the macula."""
    small = side // 2
    outlines = ribbons(eye.choroid.points, eye.choroid.widths)
    cover = coverage(small, outlines, np.full(len(outlines), 1, np.float32), oversampling=1)
    visible = 1 - 0.8 * np.exp(-((distance(small, eye.fovea) / (0.8 * eye.span)) ** 2))
    return resize((blur(cover, 0.0035 * small) - 0.5) * visible, side)


def sheen_layer(rng: np.random.Generator, eye: Eye, side: int) -> Floats:
    """Reflexes of the nerve fibres: streaky and bright in an arc from the disc."""
    small = side // 2
    to_disc = distance(small, eye.disc) / eye.span
    to_fovea = distance(small, eye.fovea) / eye.span
    arc = np.exp(-(((to_fovea - 0.85) / 0.3) ** 2) - (to_disc / 1.1) ** 2)
    x, y = mesh(small)
    angle = np.arctan2(y - eye.disc[1], x - eye.disc[0])
    phase = rng.uniform(0, 2 * np.pi, 2)
    streaks = np.sin(37 * angle + phase[0]) + np.sin(61 * angle + phase[1])
    patches = np.clip(0.6 + 0.5 * smooth_noise(rng, small, 9), 0, 2)
    return resize(floats(arc * patches * (1 + 0.12 * streaks)), side)


def add_drusen(rng: np.random.Generator, ground: Floats, eye: Eye) -> Floats:
    """`ground` with the patient's drusen: soft pale spots around the fovea, not diabetic."""
    number = eye.patient.drusen
    if number == 0:
        return ground
    centres = eye.fovea + floats(rng.normal(0, 0.22, (number, 2)))
    shapes = blobs(rng, centres, floats(rng.uniform(0.006, 0.014, number)))
    side = ground.shape[0]
    cover = coverage(side, shapes, np.full(number, 0.45, np.float32))
    return mix(ground, DRUSE * ground.max(), blur(cover, 0.004 * side))


def add_disc(rng: np.random.Generator, ground: Floats, eye: Eye) -> Floats:
    """`ground` with the optic disc: glow around it, crescent, pink rim, pale cup."""
    radius = eye.disc_radius
    near, x, y = window(ground.shape[0], eye.disc, 4 * radius)
    outline = radius * (1 + 0.03 * np.sin(2 * np.arctan2(y, x) + rng.uniform(0, 6)))
    reach = np.hypot((x - eye.disc[0]) * 1.09, y - eye.disc[1]) / outline
    shade = 1.08 - 0.2 * eye.patient.pigment
    part = ground[near] * (1 + 0.25 * np.exp(-((reach / 2.0) ** 2)))[..., None]
    beside = np.hypot(x - eye.disc[0] + 0.22 * radius, y - eye.disc[1]) / outline
    pale = 0.55 * eye.patient.crescent * edge(beside, 1.0, 0.16)
    part = mix(part, DISC * 0.85 * shade, pale)
    part = mix(part, DISC * shade, 0.9 * edge(reach, 1.0, 0.15))
    off = eye.disc + floats([-0.12, 0.02]) * radius
    cup = np.hypot(x - off[0], y - off[1]) / radius / eye.patient.cup
    ground[near] = mix(part, CUP * shade, 0.85 * edge(cup, 1.0, 0.6))
    return ground


def window(side: int, centre: Floats, reach: float) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The part of a canvas within `reach` of `centre`, and its mesh."""
    x, y = mesh(side)
    across = slice(*np.searchsorted(x[0], (centre[0] - reach, centre[0] + reach)).tolist())
    down = slice(*np.searchsorted(y[:, 0], (centre[1] - reach, centre[1] + reach)).tolist())
    return (down, across), x[:, across], y[down]


def edge(reach: Floats, at: float, softness: float) -> Floats:
    """1 inside `at`, 0 outside, smooth over about `softness`."""
    return floats(1 / (1 + np.exp(np.clip((reach - at) * (4 / softness), -30, 30))))


def mix(picture: Floats, colour: Floats, cover: Floats) -> Floats:
    """`picture` with `colour` laid over it as far as `cover` (side, side) says."""
    alpha = cover[..., None]
    return floats(picture + alpha * (colour - picture))


def vessel_layer(groups: list[Vessels], side: int, beading: float = 0.0) -> Floats:
    """The density of vessels, 0..1, finer ones fainter, the wide with a light reflex."""
    if not any(len(vessels.points) for vessels in groups):
        return np.zeros((side, side), dtype=np.float32)
    canvas = np.zeros((2 * side, 2 * side), dtype=np.uint8)
    for vessels in reversed(groups):
        widths = beaded(vessels.widths, beading)
        calibre = vessels.widths.mean(axis=1)
        levels = np.clip(0.3 + calibre / 0.025, 0.35, 1)
        fill(canvas, ribbons(vessels.points, widths), floats(levels))
        wide = calibre > 0.011
        reflex = ribbons(vessels.points[wide], widths[wide] * 0.22)
        fill(canvas, reflex, floats(levels[wide] * 0.78))
    small = np.asarray(cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA))
    return blur(floats(small) * np.float32(1 / 255), 0.0012 * side)


def blood_layer(lesions: Lesions, side: int) -> Floats:
    """The density of microaneurysms and haemorrhages, 0..1, the large ones uneven."""
    levels = 0.6 + 0.4 * np.modf(np.arange(len(lesions.blood)) * 0.618)[0]
    cover = coverage(side, lesions.blood, floats(levels))
    return blur(cover, 0.0022 * side) if len(lesions.blood) else cover


def beaded(widths: Floats, beading: float) -> Floats:
    """Widths that swell and narrow along the vessel by the share `beading`."""
    if beading == 0:
        return widths
    steps = np.arange(widths.shape[1])
    phase = np.arange(len(widths))[:, None]
    return floats(widths * (1 + beading * np.sin(1.9 * steps + phase)))


def add_deposits(picture: Floats, lesions: Lesions, side: int) -> Floats:
    """`picture` with what hides the retina: cotton wool, exudates, blood in front of it."""
    light = float(np.percentile(picture[::8, ::8, 0], 90))
    if len(lesions.wool):
        small = side // 2
        cover = coverage(small, lesions.wool, np.full(len(lesions.wool), 0.8, np.float32))
        picture = mix(picture, WOOL * light, resize(blur(cover, 0.009 * small), side))
    if len(lesions.exudates):
        levels = np.full(len(lesions.exudates), 0.92, np.float32)
        picture = mix(picture, EXUDATE * light * 1.1, coverage(side, lesions.exudates, levels))
    if len(lesions.preretinal):
        levels = np.full(len(lesions.preretinal), 0.88, np.float32)
        cover = blur(coverage(side, lesions.preretinal, levels), 0.006 * side)
        picture = mix(picture, PRERETINAL * light, cover)
    if lesions.vitreous.any():
        picture = mix(picture, VITREOUS * light, resize(lesions.vitreous, side))
    return picture
