"""Grids of images: layout and shades known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qphi.report.pictures import image_grid, save_png, shrunk, to_pixels


def test_grid_of_bytes_is_laid_out_row_by_row_with_white_between():
    images = np.array([10, 20, 30], np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    grid = image_grid(images, 2, tile=2)
    expected = np.array(
        [
            [10, 10, 255, 255, 20, 20],
            [10, 10, 255, 255, 20, 20],
            [255, 255, 255, 255, 255, 255],
            [255, 255, 255, 255, 255, 255],
            [30, 30, 255, 255, 255, 255],
            [30, 30, 255, 255, 255, 255],
        ]
    )
    np.testing.assert_array_equal(grid, expected)
    assert grid.dtype == np.uint8


def test_grid_is_nearly_square_without_columns_and_no_wider_than_its_images():
    assert image_grid(np.zeros((10, 1, 1)), tile=1).shape == (3 * 3 - 2, 4 * 3 - 2)
    assert image_grid(np.zeros((2, 1, 1)), 9, tile=1).shape == (1, 4)


def test_small_images_are_enlarged_by_whole_factors():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    grid = image_grid(image)
    np.testing.assert_array_equal(grid, image[0].repeat(7, 0).repeat(7, 1))


def test_large_images_keep_their_size_in_a_grid():
    assert image_grid(np.zeros((1, 200, 300, 3))).shape == (200, 300, 3)


def test_shrinking_averages_over_areas():
    image = np.array([[[0, 100, 10, 10], [100, 200, 10, 10], [1, 1, 3, 3], [1, 1, 3, 3]]], np.uint8)
    np.testing.assert_array_equal(shrunk(image, 2), [[[100, 10], [1, 3]]])
    assert shrunk(image, 4) is image
    assert shrunk(np.zeros((2, 2, 500, 3), np.uint8), 100).shape == (2, 1, 100, 3)


def test_limits_become_black_and_white_and_the_rest_is_cut_off():
    shades = to_pixels(np.array([[[-9.0, -1.0, 0.0, 1.0, 7.0]]]), (-1, 1))
    assert shades.tolist() == [[[0, 0, 128, 255, 255]]]
    assert to_pixels(np.array([[[False, True]]])).tolist() == [[[0, 255]]]


def test_bytes_are_taken_as_they_are():
    image = np.array([[[0, 7, 255]]], np.uint8)
    assert to_pixels(image, (0, 16)) is image


def test_colour_stays_colour_and_a_single_channel_is_grey():
    assert to_pixels(np.zeros((2, 4, 5, 3))).shape == (2, 4, 5, 3)
    assert to_pixels(np.zeros((2, 4, 5, 1))).shape == (2, 4, 5)
    red = np.zeros((1, 1, 1, 3))
    red[..., 0] = 1
    assert image_grid(red, tile=1).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("shape", [(5,), (2, 2), (2, 2, 2, 5), (1, 2, 2, 3, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="images need shape"):
        image_grid(np.zeros(shape))


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="no images"):
        image_grid(np.zeros((0, 4, 4)))
    with pytest.raises(ValueError, match="at least one pixel"):
        image_grid(np.zeros((2, 0, 0)))
    with pytest.raises(ValueError, match="columns needs to be at least 1"):
        image_grid(np.zeros((2, 4, 4)), 0)
    with pytest.raises(ValueError, match="low < high"):
        image_grid(np.zeros((2, 4, 4)), limits=(1, 1))
    broken = np.zeros((3, 4, 4))
    broken[1, 2, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 3 images"):
        image_grid(broken)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_saved_png_reads_back_the_same_and_leaves_nothing_else(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = save_png(tmp_path / "grid.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert list(tmp_path.iterdir()) == [path]


def test_saving_needs_bytes(tmp_path):
    with pytest.raises(TypeError, match="uint8"):
        save_png(tmp_path / "grid.png", np.zeros((4, 4)))
    assert not list(tmp_path.iterdir())


def test_opacity_is_laid_on_white():
    grey = np.array([[[[100, 255], [100, 0]]]], np.uint8)
    np.testing.assert_array_equal(to_pixels(grey), [[[100, 255]]])
    colours = np.array([[[[1.0, 0, 0, 1], [1, 0, 0, 0.5]]]])
    np.testing.assert_array_equal(to_pixels(colours), [[[[255, 0, 0], [255, 127, 127]]]])
