"""Fundus cameras and what they make of a retina: frame, field, light, focus, tone, noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from dr.fundus.synthetic.paint import (
    EXTENT,
    SHIFT,
    Bytes,
    Floats,
    blur,
    floats,
    mesh,
    resize,
    smooth_noise,
    to_pixels,
)

LIGHT_SIDE = 128
HEADROOM = 1.5


@dataclass(frozen=True)
class Camera:
    """A model of camera. `fill` is the field's diameter over the frame's width.

    `height` is the frame's over its width; `strip` the share of the field's radius hidden above
    and below by straight edges; `tone` the gains of red, green and blue; `rim` the softness and
    `fringe` the colour error of the field's edge, in field radii; `zoom` the magnification.
    """

    width: int
    height: float
    fill: float
    tone: tuple[float, float, float]
    greyness: float
    quality: int
    noise: float
    notch: str = ""
    strip: float = 0.0
    rim: float = 0.006
    fringe: float = 0.0
    zoom: float = 1.0


CAMERAS = (
    Camera(768, 2 / 3, 0.635, (1.00, 1.00, 1.00), 0.10, 92, 0.010, notch="round"),
    Camera(640, 2 / 3, 0.83, (1.05, 1.02, 0.92), 0.05, 90, 0.012, rim=0.02, fringe=0.012),
    Camera(592, 3 / 4, 0.80, (1.02, 0.95, 0.74), 0.00, 88, 0.014, notch="wedge"),
    Camera(720, 2 / 3, 0.64, (0.92, 1.02, 1.15), 0.32, 91, 0.010, notch="square"),
    Camera(560, 2 / 3, 0.93, (1.08, 1.02, 0.85), 0.05, 89, 0.015, rim=0.015, fringe=0.008),
    Camera(624, 3 / 4, 0.73, (1.15, 0.85, 0.75), 0.00, 90, 0.012, notch="square", zoom=0.95),
    Camera(704, 2 / 3, 0.72, (0.98, 1.0, 1.05), 0.18, 92, 0.010, strip=0.15, rim=0.012),
    Camera(816, 2 / 3, 0.62, (0.92, 1.04, 0.85), 0.15, 92, 0.013, notch="round", zoom=0.95),
)
CAMERA_SHARES = (0.24, 0.18, 0.14, 0.12, 0.1, 0.07, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class Exposure:
    """How one photograph was taken: everything that differs between two with one camera."""

    gain: Floats
    gamma: float
    vignette: float
    slope: Floats
    focus: float
    haze: float
    shadow: float
    shadow_at: Floats
    flare: float
    flare_angle: float
    flare_width: float
    flare_colour: Floats
    ghost: float
    dust: int
    shift: Floats
    noise: float


def sample_camera(rng: np.random.Generator) -> Camera:
    """One of `CAMERAS`, as often as its share says."""
    return CAMERAS[int(rng.choice(len(CAMERAS), p=CAMERA_SHARES))]


def sample_exposure(rng: np.random.Generator) -> Exposure:
    """One photograph's circumstances: most are good, some dark, hazy, shadowed or flared."""
    bad = rng.random(4) < (0.1, 0.1, 0.14, 0.3)
    warm = rng.random()
    colours = floats([[1.0, 0.97, 0.9], [1.0, 0.75, 0.35], [0.55, 0.9, 0.95]])
    return Exposure(
        gain=floats(np.exp(rng.normal(0, 0.32) + rng.normal(0, (0.08, 0.07, 0.15)))),
        gamma=rng.uniform(0.85, 1.15),
        vignette=rng.gamma(2.2, 0.27),
        slope=floats(rng.normal(0, 0.16, 2)),
        focus=rng.gamma(2.2, 0.0007) + (rng.uniform(0.002, 0.006) if bad[0] else 0),
        haze=rng.beta(1, 12) + (rng.uniform(0.1, 0.3) if bad[1] else 0),
        shadow=rng.uniform(0.5, 1.8) if bad[2] else 0.0,
        shadow_at=floats(rng.normal(0, 0.45, 2)),
        flare=rng.uniform(0.25, 1.1) if bad[3] else 0.0,
        flare_angle=rng.uniform(0, 2 * np.pi),
        flare_width=rng.uniform(0.05, 0.2),
        flare_colour=colours[int(np.searchsorted((0.5, 0.8), warm))],
        ghost=rng.uniform(0.03, 0.12) if rng.random() < 0.2 else 0.0,
        dust=int(rng.integers(1, 9)) if rng.random() < 0.15 else 0,
        shift=floats(rng.normal(0, 0.012, 2)),
        noise=rng.uniform(0.7, 1.8),
    )


def field_side(camera: Camera) -> int:
    """The side in pixels of the canvas whose field has this camera's diameter."""
    return round(camera.width * camera.fill * EXTENT)


def photograph(
    rng: np.random.Generator, retina: Floats, camera: Camera, exposure: Exposure
) -> Bytes:
    """The frame that `camera` takes of `retina` (side, side, 3): uint8 RGB (height, width, 3)."""
    side = retina.shape[0]
    light, veil = illuminate(rng, exposure)
    picture = blur(retina, exposure.focus * side)
    picture = develop(picture * resize(light, side), camera, exposure) + resize(veil, side)
    picture += sensor_noise(rng, side, camera.noise * exposure.noise)
    picture *= field_mask(camera, side)
    return tone_curve(place(picture, camera, exposure), exposure.gamma)


def illuminate(rng: np.random.Generator, exposure: Exposure) -> tuple[Floats, Floats]:
    """What light falls on the retina (a factor) and what is added to it, on coarse canvases."""
    x, y = mesh(LIGHT_SIDE)
    radius = np.hypot(x, y)
    fall = exposure.vignette * radius**2.5 + 0.06 * smooth_noise(rng, LIGHT_SIDE, 4)
    at = exposure.shadow_at
    shadow = np.exp(-((np.hypot(x - at[0], y - at[1]) / 0.4) ** 2))
    fall += exposure.shadow * shadow - exposure.slope[0] * x - exposure.slope[1] * y
    tint = floats([1.05, 1.0, 0.9])
    factor = np.exp(-fall[..., None] * tint) * (1 - exposure.haze)
    veil = exposure.haze * floats([0.55, 0.58, 0.60]) * np.exp(-0.4 * fall)[..., None]
    veil = veil + flare_light(exposure, radius, np.arctan2(y, x))
    return floats(factor), floats(veil + stray_light(rng, exposure))


def flare_light(exposure: Exposure, radius: Floats, angle: Floats) -> Floats:
    """A bright crescent along one side of the rim: (LIGHT_SIDE, LIGHT_SIDE, 3)."""
    facing = np.clip(np.cos(angle - exposure.flare_angle), 0, 1) ** 1.5
    reach = np.exp(-np.clip(1.0 - radius, 0, 2) / (exposure.flare_width * (0.2 + facing)))
    return floats((exposure.flare * facing * reach)[..., None] * exposure.flare_colour)


def stray_light(rng: np.random.Generator, exposure: Exposure) -> Floats:
    """The lens's ghost in the middle and pale dust on it: (LIGHT_SIDE, LIGHT_SIDE, 3)."""
    x, y = mesh(LIGHT_SIDE)
    spot = exposure.ghost * np.exp(-((np.hypot(x - 0.05, y) / 0.09) ** 2))
    for _ in range(exposure.dust):
        left, top = rng.uniform(-0.8, 0.8, 2)
        reach = np.hypot(x - left, y - top) / rng.uniform(0.02, 0.045)
        spot = spot + rng.uniform(0.03, 0.1) * np.clip(1.6 - reach, 0, 1)
    return floats(spot[..., None] * floats([0.9, 1.0, 1.05]))


def develop(picture: Floats, camera: Camera, exposure: Exposure) -> Floats:
    """The camera's colours: its tone, the exposure's gain, contrast, and a soft shoulder."""
    tone = floats(camera.tone) * exposure.gain * 1.25
    matrix = (1 - camera.greyness) * np.eye(3) + camera.greyness / 3
    return floats(cv2.transform(picture, floats(matrix * tone).T))


def tone_curve(frame: Bytes, gamma: float) -> Bytes:
    """`frame`, where 255 is HEADROOM times white, with contrast and a soft shoulder."""
    light = np.linspace(0, HEADROOM, 256) ** gamma
    table = 255 * (1 - np.exp(-1.15 * light)) / (1 - np.exp(-1.15 * light[-1]))
    return np.asarray(cv2.LUT(frame, np.round(table).astype(np.uint8)), dtype=np.uint8)


def sensor_noise(rng: np.random.Generator, side: int, size: float) -> Floats:
    """Noise of three colours, (side, side, 3), from one draw: colours are distant parts of it."""
    apart = 5003
    draw = rng.standard_normal(side * side + 2 * apart, dtype=np.float32) * np.float32(size)
    planes = [draw[start : start + side * side] for start in (0, apart, 2 * apart)]
    return np.stack([plane.reshape(side, side) for plane in planes], axis=-1)


def field_mask(camera: Camera, side: int) -> Floats:
    """How much of each colour the aperture lets through: (side, side, 3) in 0..1."""
    planes = [aperture(camera, side, 1 - camera.fringe * (1 - colour)) for colour in range(3)]
    soft = cv2.GaussianBlur(cv2.merge(planes), (0, 0), max(0.5, camera.rim * side / 3))
    return floats(soft) * np.float32(1 / 255)


def aperture(camera: Camera, side: int, radius: float) -> Bytes:
    """The round field of `radius`, its notch and straight edges, white on black."""
    canvas = np.zeros((side, side), dtype=np.uint8)
    unit = side / (2 * EXTENT)
    middle = to_pixels(floats([0, 0]), side).tolist()
    cv2.circle(canvas, middle, round(radius * unit * (1 << SHIFT)), 255, -1, cv2.LINE_AA, SHIFT)
    notch(canvas, camera.notch, unit)
    hidden = round((EXTENT - 1 + camera.strip) * unit) if camera.strip else 0
    canvas[:hidden] = 0
    canvas[side - hidden :] = 0
    return canvas


def notch(canvas: Bytes, kind: str, unit: float) -> None:
    """Paint the tab at the upper right of the rim that marks which way up a frame is."""
    side = canvas.shape[0]
    at = floats([np.cos(np.pi / 4), -np.sin(np.pi / 4)])
    if kind == "round":
        radius = round(0.045 * unit * (1 << SHIFT))
        middle = to_pixels(at * 0.995, side).tolist()
        cv2.circle(canvas, middle, radius, 255, -1, cv2.LINE_AA, SHIFT)
    elif kind:
        across = floats([at[1], -at[0]]) * 0.04
        outer = across if kind == "square" else across * 0.2
        corners = [at * 0.95 - across, at * 1.05 - outer, at * 1.05 + outer, at * 0.95 + across]
        cv2.fillPoly(canvas, [to_pixels(floats(corners), side)], 255, cv2.LINE_AA, SHIFT)


def place(picture: Floats, camera: Camera, exposure: Exposure) -> Bytes:
    """The field in its black frame, cut off where it is taller: uint8 (height, width, 3)."""
    width, height = camera.width, round(camera.width * camera.height)
    side = picture.shape[0]
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    left = round((width - side) / 2 + float(exposure.shift[0]) * side)
    top = round((height - side) / 2 + float(exposure.shift[1]) * side)
    first, last = max(0, -top), min(side, height - top)
    start, end = max(0, -left), min(side, width - left)
    part = np.clip(picture[first:last, start:end] * (255 / HEADROOM) + 0.5, 0, 255)
    frame[top + first : top + last, left + start : left + end] = part.astype(np.uint8)
    return frame
