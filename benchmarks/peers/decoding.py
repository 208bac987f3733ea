"""The decoders that a user of torch's DataLoader can choose from."""

import io

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pillow(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def opencv(jpeg: bytes) -> Pixels:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(image, dtype=np.uint8)


def turbo(jpeg: bytes) -> Pixels:
    return np.asarray(simplejpeg.decode_jpeg(jpeg))


DECODERS = {"pillow": pillow, "opencv": opencv, "turbo": turbo}
