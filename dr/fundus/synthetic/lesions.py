"""Diabetic lesions by the International Clinical Diabetic Retinopathy scale.

| grade | lesions |
|---|---|
| 0 | none |
| 1 | microaneurysms only |
| 2 | and haemorrhages, hard exudates, cotton-wool spots |
| 3 | many haemorrhages in every quadrant, venous beading, IRMA |
| 4 | those of 2 or 3, and new vessels, preretinal or vitreous haemorrhage |
"""

from dataclasses import dataclass, field, replace

import numpy as np

from dr.fundus.synthetic.anatomy import Eye, Vessels, wander_from
from dr.fundus.synthetic.paint import Floats, blobs, floats, mesh, smooth_noise

CORNERS = 20
CLOUD_SIDE = 48


def no_shapes() -> Floats:
    """No polygon at all, with the shape that some would have."""
    return np.zeros((0, CORNERS, 2), dtype=np.float32)


def no_vessels() -> Vessels:
    """No vessel at all, with the shapes that some would have."""
    return Vessels(np.zeros((0, 20, 2), np.float32), np.zeros((0, 20), np.float32))


def clear_vitreous() -> Floats:
    """No blood in the vitreous."""
    return np.zeros((CLOUD_SIDE, CLOUD_SIDE), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Lesions:
    """Everything diabetic in an eye; polygons are (n, CORNERS, 2) in field radii.

    `vitreous` is how dense the blood in the vitreous is, 0..1, on a coarse canvas of its own;
    `beading` is the share by which veins swell and narrow.
    """

    blood: Floats = field(default_factory=no_shapes)
    exudates: Floats = field(default_factory=no_shapes)
    wool: Floats = field(default_factory=no_shapes)
    preretinal: Floats = field(default_factory=no_shapes)
    new_vessels: Vessels = field(default_factory=no_vessels)
    vitreous: Floats = field(default_factory=clear_vitreous)
    beading: float = 0.0


def grow_lesions(rng: np.random.Generator, eye: Eye, grade: int) -> Lesions:
    """The lesions of `grade` (0..4) in `eye`; how severe they are within it varies."""
    if grade == 0:
        return Lesions()
    severity = rng.random()
    if grade == 1:
        return Lesions(blood=microaneurysms(rng, eye, round(5 + 15 * severity)))
    if grade == 2:
        return moderate(rng, eye, severity)
    if grade == 3:
        return severe(rng, eye, severity)
    background = moderate if rng.random() < 0.4 else severe
    return proliferative(rng, eye, background(rng, eye, severity))


def moderate(rng: np.random.Generator, eye: Eye, severity: float) -> Lesions:
    """Grade 2: from a few haemorrhages to many, with exudates and cotton-wool spots."""
    blood = [
        microaneurysms(rng, eye, round(6 + 16 * severity)),
        blots(rng, eye, places(rng, eye, round(4 + 18 * severity))),
        flames(rng, eye, rng.poisson(0.5 + 2.5 * severity)),
    ]
    rings = 1 + rng.poisson(2.2 * severity) if rng.random() < 0.75 else 0
    spots = 1 + rng.poisson(1.5 * severity) if rng.random() < 0.4 else 0
    return Lesions(
        blood=np.concatenate(blood),
        exudates=exudates(rng, eye, rings),
        wool=cotton_wool(rng, eye, spots),
    )


def severe(rng: np.random.Generator, eye: Eye, severity: float) -> Lesions:
    """Grade 3: haemorrhages in all four quadrants, venous beading, IRMA."""
    quadrants = [places(rng, eye, round(10 + 12 * severity), quadrant) for quadrant in range(4)]
    blood = [
        microaneurysms(rng, eye, round(15 + 15 * severity)),
        blots(rng, eye, np.concatenate(quadrants), largest=0.042),
        flames(rng, eye, 4 + rng.poisson(6 * severity)),
    ]
    rings = rng.poisson(1.8) if rng.random() < 0.8 else 0
    spots = 1 + rng.poisson(3 * severity) if rng.random() < 0.7 else 0
    return Lesions(
        blood=np.concatenate(blood),
        exudates=exudates(rng, eye, rings),
        wool=cotton_wool(rng, eye, spots),
        new_vessels=tangles(rng, places(rng, eye, 3 + rng.poisson(2)), shoots=4, reach=0.1),
        beading=rng.uniform(0.35, 0.6),
    )


def proliferative(rng: np.random.Generator, eye: Eye, background: Lesions) -> Lesions:
    """Grade 4: `background` with new vessels, preretinal or vitreous haemorrhage, or several."""
    at_disc, elsewhere, preretinal, vitreous = rng.random(4) < (0.5, 0.6, 0.5, 0.4)
    if not (at_disc or preretinal or vitreous):
        elsewhere = preretinal = True
    hearts = eye.disc[None] + floats(rng.normal(0, 0.4 * eye.disc_radius, (3, 2)))
    fans = [background.new_vessels]
    if at_disc:
        fans.append(tangles(rng, hearts, shoots=16, reach=rng.uniform(0.2, 0.36)))
    if elsewhere:
        hearts = places(rng, eye, int(rng.integers(1, 5)))
        fans.append(tangles(rng, hearts, shoots=22, reach=rng.uniform(0.16, 0.3)))
    return replace(
        background,
        new_vessels=join(fans),
        preretinal=boats(rng, eye, int(rng.integers(1, 3))) if preretinal else no_shapes(),
        vitreous=clouds(rng, int(rng.integers(2, 6))) if vitreous else clear_vitreous(),
    )


def places(rng: np.random.Generator, eye: Eye, number: int, quadrant: int | None = None) -> Floats:
    """Points of the retina off disc and fovea, at the posterior pole: (number, 2), seldom fewer.

    `quadrant` 0..3 keeps them in one quadrant about the middle of disc and fovea.
    """
    pole = (0.35 * eye.disc + 0.65 * eye.fovea) * 0.8
    tries = 40 * number + 40
    points = pole + rng.normal(0, 0.48, (tries, 2))
    good = np.hypot(points[:, 0], points[:, 1]) < 0.93
    good &= np.linalg.norm(points - eye.disc, axis=1) > 1.25 * eye.disc_radius
    good &= np.linalg.norm(points - eye.fovea, axis=1) > 0.06
    if quadrant is not None:
        right, below = points[:, 0] > pole[0], points[:, 1] > pole[1]
        good &= (right == bool(quadrant % 2)) & (below == bool(quadrant // 2))
    return floats(points[good][:number])


def fibre_angles(eye: Eye, points: Floats) -> Floats:
    """The direction of the nerve fibres at `points`: out of the disc, round the macula."""
    away = points - eye.disc
    bend = np.where(away[:, 0] < 0, 0.35, 0.0) * np.sign(away[:, 1])
    return floats(np.arctan2(away[:, 1], away[:, 0]) + bend)


def microaneurysms(rng: np.random.Generator, eye: Eye, number: int) -> Floats:
    """Small round red dots."""
    centres = places(rng, eye, number)
    radii = floats(rng.uniform(0.008, 0.0145, len(centres)))
    return blobs(rng, centres, radii, aspect=1.1, roughness=0.08, corners=CORNERS)


def blots(rng: np.random.Generator, eye: Eye, centres: Floats, largest: float = 0.032) -> Floats:
    """Dot and blot haemorrhages of uneven outline, a few of them large."""
    number = len(centres)
    radii = floats(0.011 + (largest - 0.011) * rng.beta(1, 3, number))
    aspect = floats(rng.uniform(1, 1.7, number))
    angles = fibre_angles(eye, centres) + floats(rng.normal(0, 0.8, number))
    return blobs(rng, centres, radii, aspect=aspect, angles=angles, roughness=0.17, corners=CORNERS)


def flames(rng: np.random.Generator, eye: Eye, number: int) -> Floats:
    """Flame haemorrhages: streaks along the nerve fibres, most around disc and arcades."""
    centres = places(rng, eye, 2 * number)
    near = np.argsort(np.linalg.norm(centres - eye.disc, axis=1), kind="stable")[:number]
    centres = centres[near]
    radii = floats(rng.uniform(0.008, 0.017, len(centres)))
    aspect = floats(rng.uniform(2.5, 5, len(centres)))
    angles = fibre_angles(eye, centres) + floats(rng.normal(0, 0.12, len(centres)))
    return blobs(rng, centres, radii, aspect=aspect, angles=angles, roughness=0.3, corners=CORNERS)


def exudates(rng: np.random.Generator, eye: Eye, rings: int) -> Floats:
    """Hard exudates: `rings` clusters, some circinate around a leak, some scattered."""
    groups = [exudate_cluster(rng, centre) for centre in places(rng, eye, rings)]
    return np.concatenate([no_shapes(), *groups])


def exudate_cluster(rng: np.random.Generator, centre: Floats) -> Floats:
    """One cluster: an open ring, or a patch, of 8 to 40 small sharp spots."""
    number = int(rng.integers(8, 41))
    radius = rng.uniform(0.05, 0.13)
    start, extent = rng.uniform(0, 2 * np.pi), rng.uniform(2, 6.2)
    turn = start + rng.uniform(0, extent, number)
    spread = 0.18 if rng.random() < 0.6 else 0.6
    reach = radius * np.abs(rng.normal(1, spread, number))
    spots = centre + floats(np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1))
    radii = floats(0.0055 + 0.014 * rng.beta(1, 3, number))
    aspect, angles = floats(rng.uniform(1, 1.6, number)), floats(turn + np.pi / 2)
    return blobs(rng, spots, radii, aspect=aspect, angles=angles, roughness=0.3, corners=CORNERS)


def cotton_wool(rng: np.random.Generator, eye: Eye, number: int) -> Floats:
    """Cotton-wool spots: pale patches across the nerve fibres, painted with soft edges."""
    centres = places(rng, eye, number)
    radii = floats(rng.uniform(0.022, 0.042, len(centres)))
    aspect = floats(rng.uniform(1.2, 2.2, len(centres)))
    angles = fibre_angles(eye, centres) + floats(rng.normal(0, 0.5, len(centres)))
    return blobs(rng, centres, radii, aspect=aspect, angles=angles, roughness=0.28, corners=CORNERS)


def tangles(rng: np.random.Generator, hearts: Floats, *, shoots: int, reach: float) -> Vessels:
    """Fans of fine, tortuous vessels, `shoots` of length about `reach` from every heart."""
    number = len(hearts) * shoots
    starts = np.repeat(hearts, shoots, axis=0) + floats(rng.normal(0, 0.015, (number, 2)))
    axes = np.repeat(rng.uniform(0, 2 * np.pi, len(hearts)), shoots)
    tangents = floats(axes + rng.normal(0, 1.0, number))
    angles = floats(rng.normal(0, 0.6, number))
    lengths = floats(reach * rng.uniform(0.5, 1.6, number))
    points = wander_from(rng, starts, tangents, angles, lengths, 2.2)
    calibre = floats(rng.uniform(0.005, 0.0095, number))
    return Vessels(points, floats(calibre[:, None] * np.linspace(1, 0.6, points.shape[1])))


def boats(rng: np.random.Generator, eye: Eye, number: int) -> Floats:
    """Preretinal haemorrhages: blood with a level top and a round bottom."""
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    width = rng.uniform(0.1, 0.26, (number, 1))
    depth = width * rng.uniform(0.6, 1.1, (number, 1))
    flat = np.where(np.sin(turn) < 0, 0.12, 1.0)
    offsets = np.stack([width * np.cos(turn), depth * flat * np.sin(turn)], axis=-1)
    offsets += rng.normal(0, 0.008, offsets.shape)
    centres = places(rng, eye, number)[:, None]
    return floats(centres + offsets[: len(centres)])


def clouds(rng: np.random.Generator, number: int) -> Floats:
    """Vitreous haemorrhage: `number` ragged clouds, as densities 0..1 on a coarse canvas."""
    side = CLOUD_SIDE
    x, y = mesh(side)
    ragged = smooth_noise(rng, side, 5) + 0.6 * smooth_noise(rng, side, 12)
    middle = rng.uniform((-0.5, -0.2), (0.5, 0.6))
    density = clear_vitreous()
    for _ in range(number):
        left, top = middle + rng.normal(0, 0.22, 2)
        reach = np.hypot(x - left, (y - top) * 1.2) / rng.uniform(0.14, 0.38)
        cloud = np.exp(-1.2 * (reach + 0.25 * ragged).clip(0) ** 2)
        density += rng.uniform(0.5, 1.0) * floats(cloud)
    return floats(1 - np.exp(-1.7 * density))


def join(groups: list[Vessels]) -> Vessels:
    """Several groups of vessels as one."""
    points = np.concatenate([group.points for group in groups])
    return Vessels(points, np.concatenate([group.widths for group in groups]))
