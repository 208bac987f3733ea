"""The seed's flip and rotation in TensorFlow, as Keras' RandomFlip and RandomRotation do them."""

from typing import Any

LIMIT = 0.4
"""Of a turn, either way."""


def augmented_batches(data: Any, *, augment: str, batch_size: int) -> Any:
    """Batches of float32 pictures, normalised, of a dataset of (uint8 picture, label).

    `augment`: `picture` (each as uint8, before they are batched) or `batch` (a batch as float32).
    """
    import tensorflow as tf

    def one(image: Any, label: Any) -> tuple[Any, Any]:
        return _turned(tf, _flipped(tf, image[None]))[0], label

    def whole(images: Any, labels: Any) -> tuple[Any, Any]:
        images = tf.cast(images, tf.float32)
        if augment == "batch":
            images = _turned(tf, _flipped(tf, images))
        return (images / 255 - 0.5) / 0.5, labels

    if augment == "picture":
        data = data.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    data = data.batch(batch_size, drop_remainder=True)
    return data.map(whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)


def _flipped(tf: Any, images: Any) -> Any:
    return tf.image.random_flip_left_right(images)


def _turned(tf: Any, images: Any) -> Any:
    shape = tf.shape(images)
    limit = LIMIT * 6.283185307179586
    angles = tf.random.uniform([shape[0]], -limit, limit)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=rotations(tf, angles, shape[1:3]),
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def rotations(tf: Any, angles: Any, size: Any) -> Any:
    """Keras' projective transforms `[B, 8]` for angles in radians, about a picture's centre."""
    cos, sin = tf.cos(angles), tf.sin(angles)
    last = tf.cast(size - 1, tf.float32)
    height, width = last[0], last[1]
    x = (width - (cos * width - sin * height)) / 2
    y = (height - (sin * width + cos * height)) / 2
    zero = tf.zeros_like(cos)
    return tf.stack([cos, -sin, x, sin, cos, y, zero, zero], axis=1)
