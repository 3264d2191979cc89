"""Figures of merit on predictions made by hand."""

import math

import pytest
import torch
from mmengine.structures import BaseDataElement

from beit_mm.engine import MIMMetric, TokenizerMetric

LN2 = math.log(2)


def evaluate(metric, samples: list[dict], batch: int = 2) -> dict[str, float]:
    """As an evaluation loop calls it, with a smaller last batch."""
    for i in range(0, len(samples), batch):
        metric.process({}, [BaseDataElement(**s).to_dict() for s in samples[i : i + batch]])
    return metric.evaluate(len(samples))


# -- the tokenizer -----------------------------------------------------------------------------------------------------


def reconstruction(ids: list, log_likelihood: float, kl: float, psnr: float) -> dict:
    """Of an image of 3·4·4 = 48 subpixels in 2×2 tokens."""
    values = dict(log_likelihood=log_likelihood, kl=kl, psnr=psnr, psnr_mean_color=psnr - 5)
    return dict(ids=torch.tensor(ids).view(2, 2), reconstruction=torch.zeros(3, 4, 4)) | {
        k: torch.tensor(v) for k, v in values.items()
    }


def test_the_tokenizers_figures_are_over_the_whole_set():
    samples = [
        reconstruction([0, 0, 1, 1], 48.0, 8.0, 20.0),
        reconstruction([2, 2, 3, 3], 96.0, 12.0, 22.0),
        reconstruction([0, 1, 2, 3], -48.0, 4.0, 24.0),
    ]
    found = evaluate(TokenizerMetric(vocab_size=8), samples)
    assert found == {
        'tokenizer/psnr': pytest.approx(22),
        'tokenizer/psnr_mean_color': pytest.approx(17),
        'tokenizer/reconstruction': pytest.approx(-(1 + 2 - 1) / 3),
        'tokenizer/kl': pytest.approx((2 + 3 + 1) / 3),
        'tokenizer/elbo': pytest.approx((40 + 84 - 52) / 48 / 3),
        'tokenizer/vocab_size': 8,
        'tokenizer/codes_used': 4,
        'tokenizer/perplexity': pytest.approx(4),
    }


def test_perplexity_weighs_codes_by_their_use():
    found = evaluate(TokenizerMetric(vocab_size=4), [reconstruction([0, 0, 0, 1], 0.0, 0.0, 0.0)])
    assert found['tokenizer/codes_used'] == 2
    assert found['tokenizer/perplexity'] == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


# -- masked image modeling ---------------------------------------------------------------------------------------------


def prediction(
    target: list, predicted: list, hidden: list, token: list, pixel: float | None = None
) -> dict:
    sample = dict(
        target=torch.tensor(target),
        prediction=torch.tensor(predicted),
        hidden=torch.tensor(hidden).bool(),
    )
    sample |= dict(valid=sample['hidden'], log_p_tokens=torch.tensor(token))
    return sample if pixel is None else sample | dict(log_likelihood=torch.tensor(pixel))


SAMPLES = [
    dict(target=[5, 5, 7], predicted=[5, 7, 7], hidden=[1, 1, 1], token=[-0.5, -1.5, -1.0]),
    dict(
        target=[9, 0, 0], predicted=[9, 0, 0], hidden=[1, 0, 0], token=[-2.0, -9.0, -9.0]
    ),  # unused places are right, and do not count
    dict(target=[5, 5, 7], predicted=[7, 5, 5], hidden=[1, 1, 1], token=[-3.0, -3.0, -3.0]),
    dict(target=[9, 0, 0], predicted=[5, 0, 0], hidden=[1, 0, 0], token=[-2.0, -9.0, -9.0]),
]


def test_figures_of_the_hidden_tokens_are_means_over_tokens():
    found = evaluate(MIMMetric(), [prediction(**s) for s in SAMPLES], batch=3)
    assert found == {
        'mim/val_loss': pytest.approx(16 / 8),  # not the mean of the images' means
        'mim/marginal_entropy': pytest.approx(0.5 * LN2 + 0.25 * 2 * LN2 + 0.25 * 2 * LN2),
        'mim/masked_accuracy': pytest.approx(100 * 4 / 8),
        'mim/marginal_accuracy': pytest.approx(100 * 4 / 8),
        'mim/token_term': pytest.approx(-16 / 4),
    }


def test_both_terms_of_eq_3_are_nats_an_image():
    pixels = (1000.0, 1200.0, 900.0, 1100.0)
    found = evaluate(
        MIMMetric(), [prediction(**s, pixel=p) for s, p in zip(SAMPLES, pixels, strict=True)]
    )
    assert found['mim/pixel_term'] == pytest.approx(1050)
    assert (
        found['mim/eq3'] == pytest.approx(1046) == found['mim/pixel_term'] + found['mim/token_term']
    )


def test_a_model_of_the_marginal_has_the_marginals_entropy_as_its_loss():
    targets = torch.tensor([1, 1, 1, 2, 3, 3])
    log_p = (torch.bincount(targets) / 6).log()
    samples = [
        prediction(t.tolist(), [1, 1], [1, 1], log_p[t].tolist(), pixel=0.0)
        for t in targets.split(2)
    ]
    found = evaluate(MIMMetric(), samples)
    assert found['mim/val_loss'] == pytest.approx(found['mim/marginal_entropy'])
    assert found['mim/masked_accuracy'] == found['mim/marginal_accuracy'] == pytest.approx(50)


def test_of_pixels_the_loss_is_the_mean_squared_error_of_hidden_patches():
    hidden = torch.tensor([True, False])
    samples = [
        dict(mse=torch.tensor([m, 9.0]), valid=hidden, hidden=hidden) for m in (0.5, 0.7, 0.9)
    ]
    assert evaluate(MIMMetric(), samples) == {'mim/val_loss': pytest.approx(0.7)}
