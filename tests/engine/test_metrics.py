"""Metrics of predictions made by hand, on one rank and on several."""

import math
import pickle

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from trials import toy

from beit_mm.engine import MIMMetric, TokenizerMetric

LN2 = math.log(2)


def evaluate(metric, samples: list[dict], batch: int = 2) -> dict[str, float]:
    """Call a metric as an evaluation loop does, with a smaller last batch."""
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        metric.process({}, [BaseDataElement(**sample).to_dict() for sample in part])
    return metric.evaluate(len(samples))


# -- tokenizer


def reconstruction(ids: list, log_likelihood: float, kl: float, psnr: float) -> dict:
    """Return the sample of an image of 3·4·4 = 48 subpixels in 2×2 tokens."""
    values = dict(log_likelihood=log_likelihood, kl=kl, psnr=psnr, psnr_mean_color=psnr - 5)
    sample = dict(ids=torch.tensor(ids).view(2, 2), reconstruction=torch.zeros(3, 4, 4))
    return sample | {name: torch.tensor(value) for name, value in values.items()}


SAMPLES = [
    reconstruction([0, 0, 0, 0], 48.0, 8.0, 20.0),
    reconstruction([0, 0, 0, 3], 96.0, 12.0, 22.0),
    reconstruction([0, 0, 3, 3], -48.0, 4.0, 24.0),
]
EXPECTED = {
    'tokenizer/psnr': pytest.approx(22),
    'tokenizer/psnr_mean_color': pytest.approx(17),
    'tokenizer/reconstruction': pytest.approx(-(1 + 2 - 1) / 3),
    'tokenizer/kl': pytest.approx((2 + 3 + 1) / 3),
    'tokenizer/elbo': pytest.approx((40 + 84 - 52) / 48 / 3),
    'tokenizer/vocab_size': 8,
    'tokenizer/codes_used': 2,
    'tokenizer/perplexity': pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
}


def test_tokenizer_metrics_are_means_over_images():
    assert evaluate(TokenizerMetric(vocab_size=8), SAMPLES) == EXPECTED


# -- masked image modeling


def prediction(
    target: list, predicted: list, hidden: list, token: list, pixels: float
) -> dict[str, torch.Tensor]:
    hidden = torch.tensor(hidden).bool()
    values = dict(target=target, prediction=predicted, log_p_tokens=token, log_likelihood=pixels)
    values = {name: torch.tensor(value) for name, value in values.items()}
    return values | dict(hidden=hidden, valid=hidden)


PREDICTIONS = [
    prediction([5, 5, 7], [5, 7, 7], [1, 1, 1], [-0.5, -1.5, -1.0], 1000.0),
    # Unused places are right, and do not count.
    prediction([9, 0, 0], [9, 0, 0], [1, 0, 0], [-2.0, -9.0, -9.0], 1200.0),
    prediction([5, 5, 7], [7, 5, 5], [1, 1, 1], [-3.0, -3.0, -3.0], 900.0),
    prediction([9, 0, 0], [5, 0, 0], [1, 0, 0], [-2.0, -9.0, -9.0], 1100.0),
]


def test_metrics_of_masked_tokens_are_means_and_equation_3_is_nats_per_image():
    assert evaluate(MIMMetric(), PREDICTIONS, batch=3) == {
        'mim/val_loss': pytest.approx(16 / 8),  # not the mean of the images' means
        'mim/marginal_entropy': pytest.approx(0.5 * LN2 + 0.25 * 2 * LN2 + 0.25 * 2 * LN2),
        'mim/masked_accuracy': pytest.approx(100 * 4 / 8),
        'mim/marginal_accuracy': pytest.approx(100 * 4 / 8),
        'mim/log_p_tokens': pytest.approx(-16 / 4),
        'mim/log_p_pixels': pytest.approx(1050),
        'mim/eq3': pytest.approx(1046),
    }


MASKED = torch.tensor([True, False])
PIXELS = [dict(mse=torch.tensor([e, 9.0]), valid=MASKED, hidden=MASKED) for e in (0.5, 0.7, 0.9)]


def test_the_loss_of_pixels_is_the_mean_squared_error_of_masked_patches():
    assert evaluate(MIMMetric(), PIXELS) == {'mim/val_loss': pytest.approx(0.7)}


# -- both


RANKS = [(1, False), (2, True), (4, True), (4, False)]
KINDS = {
    'tokenizer': (lambda: TokenizerMetric(vocab_size=8), SAMPLES),
    'tokens': (MIMMetric, PREDICTIONS[:3]),
    'all tokens': (MIMMetric, [one | dict(valid=torch.ones(3).bool()) for one in PREDICTIONS[:3]]),
    'pixels': (MIMMetric, PIXELS),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('ranks', 'padded'), RANKS)
def test_metrics_count_each_image_once(kind, ranks, padded, tmp_path):
    """DefaultSampler repeats the first images, or with `round_up=False` a rank may have none."""
    make, samples = KINDS[kind]
    expected = evaluate(make(), samples)

    def call(rank: int) -> None:
        torch.distributed.init_process_group('gloo')
        metric = make()
        for _ in range(2):  # nothing is kept from the evaluation before
            for place in range(rank, 4 if padded else 3, ranks):
                metric.process({}, [samples[place % 3]])
            found = Evaluator(metric).evaluate(3)
        torch.save(found, tmp_path / f'{rank}.pt')
        torch.distributed.destroy_process_group()

    toy.run_ranks(call, ranks, tmp_path)
    for rank in range(ranks):
        assert torch.load(tmp_path / f'{rank}.pt') == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_memory_does_not_grow_with_the_number_of_images(kind):
    make, samples = KINDS[kind]
    sizes = []
    for repeats in (1, 100):
        metric = make()
        metric.process({}, samples * repeats)
        sizes.append(len(pickle.dumps(vars(metric))))
    assert sizes[0] == sizes[1]
