"""Measures of features, attention and ids with known values."""

import math

import pytest
import torch

from beit_mm.engine.measures import attention_distance, effective_rank, knn_top1, linear_probe

pytestmark = pytest.mark.any_stack


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_neighbors_find_clusters_and_nothing_in_noise():
    labels = torch.arange(4).repeat(30)
    centers = 5 * draw(4, 16)
    assert knn_top1(centers[labels] + draw(120, 16, seed=1), labels) == 100
    assert knn_top1(draw(120, 16), labels) < 45  # 25 by chance, plus 5 standard errors
    assert knn_top1(draw(6, 4), torch.arange(6)) == 0  # no image is its own neighbor


def test_a_linear_classifier_finds_linear_classes_only():
    x = draw(400, 10)
    assert linear_probe(x, (x[:, 3] - x[:, 7] > 0).long()) > 90
    assert 35 < linear_probe(x, (x[:, 3] * x[:, 7] > 0).long()) < 65
    alternate = torch.arange(400) % 2  # as in a list that takes the classes in turn
    assert linear_probe(x + 3 * alternate[:, None], alternate) > 95
    scaled = x * torch.logspace(-3, 3, 10) + 100  # channels are standardized
    assert linear_probe(scaled, (x[:, 3] > 0).long()) == pytest.approx(
        linear_probe(x, (x[:, 3] > 0).long()), abs=0.5
    )


@pytest.mark.parametrize('shape', [(40, 12), (12, 40)])
def test_the_effective_rank_counts_directions(shape):
    basis = torch.linalg.qr(draw(40, 8)).Q
    features = basis @ torch.linalg.qr(draw(12, 8, seed=1)).Q.T  # 40×12: 8 equal singular values
    features = features if shape == (40, 12) else features.T
    assert effective_rank(features) == pytest.approx(8, rel=1e-3)
    assert effective_rank(1000 * features) == pytest.approx(8, rel=1e-3)
    assert effective_rank(torch.ones(shape)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(shape) + 1e-5 * draw(*shape)) < 1.01  # noise


def test_attention_distance_is_in_pixels_and_without_the_class_token():
    grid, to_self = (2, 3), torch.eye(7)
    right = torch.zeros(7, 7)
    # Each patch attends to its right neighbor, the last of a row to itself.
    right[1 + torch.arange(6), 1 + torch.tensor([1, 2, 2, 4, 5, 5])] = 1
    uniform = torch.full((7, 7), 1 / 7)
    to_class = 0.5 * right + torch.nn.functional.pad(torch.full((7, 1), 0.5), (0, 6))
    found = attention_distance(torch.stack([to_self, right, uniform, to_class])[None], grid, 16)
    corner, middle = 4 + math.sqrt(2) + math.sqrt(5), 3 + 2 * math.sqrt(2)  # of six distances
    expected = [0, 16 * 4 / 6, 16 * (4 * corner + 2 * middle) / 36, 16 * 4 / 6]
    assert found.tolist() == [pytest.approx(expected)]
