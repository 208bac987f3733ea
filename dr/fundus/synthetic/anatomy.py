"""The healthy eye: where disc, fovea and vessels lie, and how they branch.

Every eye is laid out as a right eye, nasal to the right; a left eye's picture is mirrored.
"""

from dataclasses import dataclass

import numpy as np

from dr.fundus.synthetic.paint import Floats, floats

STEPS = 40
FINEST = 0.0035
SUPERIOR_VEIN = ((0, 0), (0.12, -0.55), (-0.30, -1.0), (-1.0, -1.05), (-1.6, -1.0), (-2.2, -0.5))
SUPERIOR_NASAL = ((0, 0), (0.05, -0.35), (0.30, -0.5), (0.6, -0.75), (0.9, -1.05), (1.3, -1.4))
NASAL = ((0, 0), (0.2, -0.06), (0.5, -0.15), (0.8, -0.15), (1.1, -0.25), (1.5, -0.3))
MACULAR = ((0, 0), (-0.12, -0.08), (-0.35, -0.3), (-0.55, -0.3), (-0.7, -0.28), (-0.9, -0.2))
POLAR = ((0, 0), (0.02, -0.4), (-0.1, -0.8), (-0.12, -1.2), (-0.3, -1.5), (-0.35, -1.9))
TRUNK_CALIBRE = (1.0, 0.5, 0.25, 0.25, 0.34)


@dataclass(frozen=True)
class Patient:
    """What both eyes of a patient share. All are relative, but for `calibre` (field radii)."""

    pigment: float
    hue: float
    tessellation: float
    calibre: float
    tortuosity: float
    cup: float
    sheen: float
    drusen: int
    crescent: float


@dataclass(frozen=True, eq=False)
class Vessels:
    """Paths of shape (n, steps, 2) and their widths (n, steps), both in field radii."""

    points: Floats
    widths: Floats


@dataclass(frozen=True, eq=False)
class Eye:
    """The anatomy of one eye, in field radii; `span` is the distance from disc to fovea."""

    patient: Patient
    disc: Floats
    disc_radius: float
    fovea: Floats
    span: float
    veins: list[Vessels]
    arteries: list[Vessels]
    choroid: Vessels


def sample_patient(rng: np.random.Generator) -> Patient:
    """A patient: pigment, vessel calibre and the like."""
    pigment = rng.beta(1.6, 1.6)
    return Patient(
        pigment=pigment,
        hue=rng.normal(),
        tessellation=rng.beta(1.2, 2.2),
        calibre=rng.uniform(0.022, 0.032),
        tortuosity=rng.uniform(0.4, 1.3),
        cup=rng.uniform(0.3, 0.62),
        sheen=rng.beta(1, 3),
        drusen=int(rng.integers(3, 40)) if rng.random() < 0.12 else 0,
        crescent=rng.uniform(0.4, 1) if rng.random() < 0.3 else 0.0,
    )


def grow_eye(rng: np.random.Generator, patient: Patient, *, scale: float) -> Eye:
    """An eye of `patient`; `scale` is the magnification of its camera, 1 for a 45° field."""
    span = 0.74 * scale * rng.uniform(0.95, 1.05)
    gaze = rng.uniform(0.28, 0.72) if rng.random() < 0.85 else rng.uniform(0.05, 0.9)
    disc = floats([gaze, rng.normal(0, 0.08)])
    fovea = disc + floats([-span, span * rng.uniform(0.02, 0.2)])
    radius = 0.135 * scale * rng.uniform(0.92, 1.1)
    calibre = patient.calibre * scale
    tree = (rng, patient, disc, fovea)
    veins = grow_tree(*tree, calibre=calibre)
    arteries = grow_tree(*tree, calibre=0.72 * calibre)
    choroid = grow_choroid(rng, disc, scale)
    return Eye(patient, disc, radius, fovea, span, veins, arteries, choroid)


def grow_tree(
    rng: np.random.Generator,
    patient: Patient,
    disc: Floats,
    fovea: Floats,
    *,
    calibre: float,
) -> list[Vessels]:
    """Trunks out of the disc and two generations of branches."""
    trunks = grow_trunks(rng, patient, disc, fovea, calibre)
    large = branch(rng, trunks, count=5, length=(0.3, 0.9), wander=0.9 * patient.tortuosity)
    small = branch(rng, large, count=5, length=(0.12, 0.4), wander=1.2 * patient.tortuosity)
    free_zone = 0.13 * float(np.linalg.norm(disc - fovea))
    return [trunks] + [keep_off(vessels, fovea, free_zone) for vessels in (large, small)]


def grow_trunks(
    rng: np.random.Generator, patient: Patient, disc: Floats, fovea: Floats, calibre: float
) -> Vessels:
    """The arcades, nasal, macular and polar trunks, above and below: Vessels of 10 paths."""
    shapes = np.array([SUPERIOR_VEIN, SUPERIOR_NASAL, NASAL, MACULAR, POLAR], dtype=np.float64)
    controls = np.concatenate([shapes, shapes * [1, -1]])
    controls[:, 1:] += rng.normal(0, 0.06, (10, 5, 2)) * np.linspace(0.5, 1.8, 5)[:, None]
    controls[:, :, 1] *= rng.uniform(0.78, 1.1, (10, 1))
    controls[:, 0] += rng.normal(0, 0.03, (10, 2))
    points = bezier(controls)
    points += sway(rng, points, 0.014 * patient.tortuosity)
    axis = fovea - disc
    span = float(np.linalg.norm(axis))
    points[:, :, 1] -= points[:, :, 0] * axis[1] / span
    start = calibre * np.tile(TRUNK_CALIBRE, 2) * rng.uniform(0.85, 1.12, 10)
    widths = start[:, None] * np.linspace(1, 0.3, STEPS)
    return Vessels(floats(disc + span * points), floats(widths))


def bezier(controls: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Floats:
    """Bezier curves of six control points: (n, 6, 2) to (n, STEPS, 2)."""
    t = np.linspace(0, 1, STEPS)[:, None]
    k = np.arange(6)
    basis = np.array([1, 5, 10, 10, 5, 1]) * t**k * (1 - t) ** (5 - k)
    return floats(np.einsum("sk,nkc->nsc", basis, controls))


def sway(rng: np.random.Generator, points: Floats, size: float) -> Floats:
    """Sideways waves along paths, none at their start: what tortuosity adds to `points`."""
    along = np.gradient(points, axis=1)
    normals = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    t = np.linspace(0, 1, points.shape[1])
    waves = rng.uniform(2, 9, (len(points), 3, 1))
    phases = rng.uniform(0, 2 * np.pi, (len(points), 3, 1))
    heights = (np.sin(2 * np.pi * waves * t + phases) / np.sqrt(waves)).sum(axis=1)
    return floats(size * (heights * np.minimum(1, 4 * t))[..., None] * normals)


def branch(
    rng: np.random.Generator,
    parents: Vessels,
    *,
    count: int,
    length: tuple[float, float],
    wander: float,
) -> Vessels:
    """`count` branches off every parent, on alternate sides, too fine ones left out."""
    number, steps, _ = parents.points.shape
    at = np.linspace(0.17, 0.97, count) + rng.uniform(-0.05, 0.05, (number, count))
    at = np.clip(at * (steps - 1), 1, steps - 2).astype(np.int64).ravel()
    row = np.repeat(np.arange(number), count)
    side = np.where((np.arange(count) + rng.integers(0, 2, (number, 1))) % 2, 1.0, -1.0).ravel()
    ahead = parents.points[row, at + 1] - parents.points[row, at]
    calibre = parents.widths[row, at] * rng.uniform(0.42, 0.72, row.size)
    kept = (calibre > FINEST) & (np.abs(ahead).sum(axis=1) > 0)
    row, at, ahead, calibre, side = row[kept], at[kept], ahead[kept], calibre[kept], side[kept]
    tangents = np.arctan2(ahead[:, 1], ahead[:, 0])
    angles = side * rng.uniform(0.5, 1.15, row.size)
    lengths = rng.uniform(*length, row.size) * np.clip(calibre / 0.008, 0.6, 1.2)
    points = wander_from(rng, parents.points[row, at], tangents, angles, lengths, wander)
    return Vessels(points, floats(calibre[:, None] * np.linspace(1, 0.45, points.shape[1])))


def wander_from(
    rng: np.random.Generator,
    starts: Floats,
    tangents: Floats,
    angles: Floats,
    lengths: Floats,
    wander: float,
    steps: int = 20,
) -> Floats:
    """Paths that leave at `angles` to `tangents`, bend back half way, and wander: (n, steps, 2)."""
    t = np.linspace(0, 1, steps)
    number = len(starts)
    drift = np.cumsum(rng.normal(0, 1, (number, steps)), axis=1) / np.sqrt(steps)
    ripple = rng.normal(0, 0.35, (number, steps))
    relax = 0.45 + 0.55 * np.exp(-4 * t)
    heading = tangents[:, None] + angles[:, None] * relax + wander * (0.6 * drift + ripple)
    stride = lengths[:, None] / steps
    moves = np.stack([stride * np.cos(heading), stride * np.sin(heading)], axis=-1)
    moves[:, 0] = 0
    return floats(starts[:, None] + np.cumsum(moves, axis=1))


def keep_off(vessels: Vessels, centre: Floats, radius: float) -> Vessels:
    """The same vessels, each stopped where it would come within `radius` of `centre`."""
    away = np.linalg.norm(vessels.points - centre, axis=-1) > radius
    alive = np.logical_and.accumulate(away, axis=1)
    last = np.maximum(alive.sum(axis=1) - 1, 0)
    step = np.minimum(np.arange(alive.shape[1]), last[:, None])
    points = np.take_along_axis(vessels.points, step[..., None], axis=1)
    return Vessels(points, vessels.widths)


def grow_choroid(rng: np.random.Generator, disc: Floats, scale: float) -> Vessels:
    """The wide vessels under the retina, spreading away from the disc."""
    number = 260
    starts = floats(rng.uniform(-1.1, 1.1, (number, 2)))
    away = starts - disc
    tangents = np.arctan2(away[:, 1], away[:, 0])
    lengths = floats(rng.uniform(0.3, 0.8, number))
    angles = floats(rng.normal(0, 0.6, number))
    points = wander_from(rng, starts, tangents, angles, lengths, 0.8, steps=12)
    calibre = rng.uniform(0.014, 0.034, number) * scale
    return Vessels(points, floats(calibre[:, None] * np.linspace(1, 0.7, 12)))
