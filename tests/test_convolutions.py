"""Convolutions against the compiler's own, and the networks made of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qphi.autoencoders.conv_networks import ConvFeatures, ConvImage
from qphi.autoencoders.convolutions import half, strided_conv, strided_conv_transpose
from qphi.autoencoders.training import images_at_once

LAYOUT = ("CHWN", "HWIO", "CHWN")
# channels of the large and the small image, height, width, batch: even and odd sides, thin and wide
CASES = [
    (1, 32, 28, 28, 5),
    (32, 7, 14, 14, 3),
    (3, 5, 31, 47, 2),
    (4, 16, 4, 5, 1),
    (2, 9, 7, 6, 1),
    (16, 3, 9, 4, 4),
    (1, 1, 5, 5, 1),
]


def reference_conv(x, kernel):
    padding = tuple((1, 1 + side % 2) for side in x.shape[1:3])
    return lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=LAYOUT)


def reference_transpose(y, kernel, size):
    x = lax.conv_transpose(y, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=LAYOUT, transpose_kernel=True)
    return x[:, : size[0], : size[1]]


def arrays(case, seed=0):
    c, o, height, width, n = case
    normal = np.random.default_rng(seed).standard_normal
    shapes = (c, height, width, n), (o, half(height), half(width), n), (4, 4, c, o)
    return [jnp.asarray(normal(shape), jnp.float32) for shape in shapes]


def value_and_pullback(function, *arguments, bar):
    def both(arguments, bar):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(bar)

    return jax.jit(both)(arguments, bar)


def assert_equal(got, wanted):
    # float32: sums of up to 16 c h w n products in another order
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * float(1 + jnp.abs(b).max() * 10))


@pytest.mark.parametrize("case", CASES)
def test_conv_and_gradients_equal_lax(case):
    x, y_bar, kernel = arrays(case)
    got = value_and_pullback(strided_conv, x, kernel, bar=y_bar)
    assert_equal(got, value_and_pullback(reference_conv, x, kernel, bar=y_bar))


@pytest.mark.parametrize("case", CASES)
def test_transpose_and_gradients_equal_lax(case):
    x_bar, y, kernel = arrays(case)
    size = case[2:4]
    got = value_and_pullback(lambda y, k: strided_conv_transpose(y, k, size), y, kernel, bar=x_bar)
    assert_equal(got, value_and_pullback(lambda y, k: reference_transpose(y, k, size), y, kernel, bar=x_bar))


@pytest.mark.parametrize("case", CASES)
def test_transpose_is_the_adjoint(case):
    x, y, kernel = arrays(case)
    left = jnp.vdot(jax.jit(strided_conv)(x, kernel), y)
    right = jnp.vdot(x, jax.jit(strided_conv_transpose, static_argnums=2)(y, kernel, case[2:4]))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("case", [(1, 8, 6, 5, 2), (3, 2, 5, 4, 2)])
def test_second_derivatives_equal_lax(case):
    x, y, kernel = arrays(case)
    size = case[2:4]

    def curved(conv, transpose):
        # quartic in the kernel, so second derivatives depend on all arguments
        return lambda x, kernel: jnp.sum(jnp.sin(transpose(jnp.tanh(conv(x, kernel)) + y, kernel)))

    def reverse_twice(loss):
        def slope(x, kernel):
            x_bar, kernel_bar = jax.grad(loss, (0, 1))(x, kernel)
            return jnp.sum(jnp.cos(x_bar)) + jnp.sum(jnp.cos(kernel_bar))

        return jax.grad(slope, (0, 1))(x, kernel)

    def forward_over_reverse(loss):
        return jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (jnp.cos(x), jnp.cos(kernel)))[1]

    ours = curved(strided_conv, lambda y, k: strided_conv_transpose(y, k, size))
    reference = curved(reference_conv, lambda y, k: reference_transpose(y, k, size))
    for second in (reverse_twice, forward_over_reverse):
        for got, wanted in zip(
            jax.jit(lambda s=second: s(ours))(), jax.jit(lambda s=second: s(reference))(), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("case", CASES[:3])
def test_vmap_equals_a_loop(case):
    stacks = [jnp.stack(pair) for pair in zip(arrays(case, 1), arrays(case, 2), strict=True)]

    def value(x, y, kernel):
        large = strided_conv_transpose(y, kernel, case[2:4])
        return jnp.vdot(strided_conv(x, kernel), y) + jnp.sum(jnp.sin(large))

    gradients = jax.grad(value, (0, 1, 2))
    got = jax.jit(jax.vmap(gradients))(*stacks)
    for index in range(2):
        wanted = jax.jit(gradients)(*(stack[index] for stack in stacks))
        assert_equal(jax.tree.map(lambda leaf, i=index: leaf[i], got), wanted)


SHAPES = [((28, 28, 1), (32, 64)), ((31, 47, 3), (4, 6, 5)), ((4, 5, 2), (3,)), ((5, 4, 1), (2, 2, 2))]


@pytest.mark.parametrize(("shape", "channels"), SHAPES)
def test_features_batch_equals_calls(shape, channels):
    network = ConvFeatures(shape, channels, key=jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (3, *shape))
    got = eqx.filter_jit(network.batch)(xs)
    assert got.shape == (3, network.out_size)
    assert got.dtype == jnp.float32
    one = eqx.filter_jit(network)
    assert_equal(got, jnp.stack([one(x) for x in xs]))
    assert_equal(got, jax.jit(jax.vmap(network))(xs))


@pytest.mark.parametrize(("shape", "channels"), SHAPES)
def test_image_batch_equals_calls(shape, channels):
    network = ConvImage(5, shape, channels[::-1], key=jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (3, 5))
    got = eqx.filter_jit(network.batch)(features)
    assert got.shape == (3, *shape)
    assert got.dtype == jnp.float32
    one = eqx.filter_jit(network)
    assert_equal(got, jnp.stack([one(row) for row in features]))
    assert_equal(got, jax.jit(jax.vmap(network))(features))


@pytest.mark.parametrize(("shape", "channels"), SHAPES)
def test_networks_equal_layers_of_lax(shape, channels):
    features = ConvFeatures(shape, channels, key=jax.random.key(0))
    image = ConvImage(5, shape, channels[::-1], key=jax.random.key(1))
    # biases start at zero, where a missing one would not be seen
    keys = iter(jax.random.split(jax.random.key(2), 20))
    features, image = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), (features, image)
    )
    xs = jax.random.normal(jax.random.key(3), (2, *shape))

    zs = jax.random.normal(jax.random.key(4), (2, 5))

    @jax.jit
    def ours(features, image):
        return features.batch(xs), image.batch(zs)

    @jax.jit
    def reference(features, image):
        h = xs.transpose(3, 1, 2, 0)
        sides = [h.shape[1:3]]
        for kernel, bias in zip(features.kernels, features.biases, strict=True):
            h = jax.nn.relu(reference_conv(h, kernel) + bias.reshape(-1, 1, 1, 1))
            sides.append(h.shape[1:3])
        flat = h.reshape(-1, 2).T

        h = (zs @ image.weight.T + image.bias).T.reshape(channels[-1], *sides[-1], 2)
        for level, (kernel, bias) in enumerate(zip(image.kernels, image.biases, strict=True), start=2):
            h = reference_transpose(jax.nn.relu(h), kernel, sides[-level]) + bias.reshape(-1, 1, 1, 1)
        return flat, h.transpose(3, 1, 2, 0)

    assert_equal(ours(features, image), reference(features, image))


def test_activations_keep_their_size_at_the_start():
    # He initialisation keeps the mean square from layer to layer, up to the image's border.
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 4)
        xs = jax.random.normal(keys[0], (64, 32, 32, 3))
        features = ConvFeatures((32, 32, 3), (32, 64, 64), key=keys[1])
        assert 0.3 < jnp.mean(eqx.filter_jit(features.batch)(xs) ** 2) < 2
        zs = jax.random.normal(keys[2], (64, 16))
        images = ConvImage(16, (32, 32, 3), (64, 64, 32), key=keys[3])
        assert 0.2 < jnp.mean(eqx.filter_jit(images.batch)(zs) ** 2) < 3


def test_errors_say_what_to_do():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"at least 4 x 4, got 3 x 28.*Pad or enlarge"):
        ConvFeatures((3, 28, 1), key=key)
    with pytest.raises(ValueError, match=r"at least 4 x 4, got 28 x 2.*Pad or enlarge"):
        ConvImage(20, (28, 2, 1), key=key)
    with pytest.raises(ValueError, match=r"at least one channel, got an image with 0.*positive"):
        ConvFeatures((28, 28, 0), key=key)
    with pytest.raises(ValueError, match=r"at least one channel.*\(32, 0\).*positive"):
        ConvFeatures((28, 28, 1), (32, 0), key=key)
    with pytest.raises(ValueError, match=r"at least one channel.*\(\).*positive"):
        ConvImage(20, (28, 28, 1), (), key=key)
    with pytest.raises(ValueError, match=r"height, width, channels.*got \(28, 28\).*Grey"):
        ConvFeatures((28, 28), key=key)
    with pytest.raises(ValueError, match=r"at least one input, got in_size=0"):
        ConvImage(0, (28, 28, 1), key=key)
    with pytest.raises(ValueError, match=r"shape \(28, 28, 1\), got \(14, 56, 1\).*Reshape"):
        ConvFeatures((28, 28, 1), key=key).batch(jnp.zeros((2, 14, 56, 1)))
    with pytest.raises(ValueError, match=r"20 x 20 has 10 x 10 halves, got \(7, 7\)"):
        strided_conv_transpose(jnp.zeros((2, 7, 7, 1)), jnp.zeros((4, 4, 1, 2)), (20, 20))


def test_slices_follow_the_pixels():
    sides = {(28, 28): 64, (32, 32): 64, (31, 47): 64, (64, 64): 32, (96, 96): 8, (128, 128): 8, (512, 512): 8}
    assert {side: images_at_once(*side) for side in sides} == sides
