"""What the two pre-training stages are judged by, over a whole validation set."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ..models.histogram import histogram, perplexity
from ..registry import METRICS
from ..utils.arguments import check_integers


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Figures of a `DiscreteVAE`'s predictions: `psnr` and that of the mean color (dB), `codes_used` of `vocab_size`, `perplexity`,
    `reconstruction` and `kl` (nats per subpixel, nats per token) and their `elbo` (nats per subpixel).

    Warns when less than a tenth of the codebook is used, and when the reconstructions are no better than the mean color.
    """

    default_prefix = 'tokenizer'

    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(**kwargs)
        check_integers(2, vocab_size=vocab_size)
        self.vocab_size = vocab_size

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            ids, subpixels = sample['ids'], sample['reconstruction'].numel()
            self.results.append(
                dict(
                    counts=histogram(ids, self.vocab_size).cpu(),
                    psnr=sample['psnr'].item(),
                    psnr_mean_color=sample['psnr_mean_color'].item(),
                    reconstruction=-sample['log_likelihood'].item() / subpixels,
                    kl=sample['kl'].item() / ids.numel(),
                    elbo=(sample['log_likelihood'] - sample['kl']).item() / subpixels,
                )
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        counts = sum(r['counts'] for r in results)
        used, logger = int((counts > 0).sum()), MMLogger.get_current_instance()
        if used < 0.1 * self.vocab_size:
            logger.warning(
                f'the codebook is collapsing: {used} of {self.vocab_size} codes are used. Mends: the InitCodebook hook, a larger '
                'marginal_weight than information_weight, a slower temperature schedule, more images a batch'
            )
        means = {k: sum(r[k] for r in results) / len(results) for k in results[0] if k != 'counts'}
        if means['psnr'] <= means['psnr_mean_color']:
            logger.warning(
                f'PSNR is {means["psnr"]:.1f} dB, that of one mean color per image {means["psnr_mean_color"]:.1f} dB: the tokens '
                'say nothing of the images. Train longer, and check that the Anneal hooks are no longer than the run; or change '
                'the learning rate'
            )
        return dict(
            **means,
            vocab_size=self.vocab_size,
            codes_used=used,
            perplexity=perplexity(counts).item(),
        )


@METRICS.register_module()
class MIMMetric(BaseMetric):
    """Figures of a `BEiTPretrainer`'s predictions at hidden patches, comparable between runs.

    Of tokens: `val_loss` (nats per hidden token) beside `marginal_entropy`, the loss of a model that ignores the image;
    `masked_accuracy` beside `marginal_accuracy`, the commonest token's share (%). And the two terms of the paper's eq. 3,
    nats per image: `token_term`, ln p(ẑ | x̃) of the hidden tokens, and `pixel_term`, ln p(x | ẑ) of the tokenizer's
    decoder, with their sum `eq3`. Of pixels: `val_loss`, the mean squared error.

    A model that also predicts visible patches (`recover='all'`) has the same figures over all patches: `val_loss_all`,
    `marginal_entropy_all`, `accuracy_all`, `marginal_accuracy_all`. If nothing is hidden, only these are computed.

    Raises ValueError when there is nothing to predict in any image.
    """

    default_prefix = 'mim'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            valid = sample['valid']
            fields = (
                ('hidden', 'mse')
                if 'mse' in sample
                else ('hidden', 'target', 'prediction', 'log_p_tokens')
            )
            entry = {name: sample[name][valid].cpu() for name in fields}
            if 'log_likelihood' in sample:
                entry['pixel'] = sample['log_likelihood'].item()
            self.results.append(entry)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        places = (
            {name: torch.cat([r[name] for r in results]) for name in results[0] if name != 'pixel'}
            if results
            else {}
        )
        hidden = places.pop('hidden', torch.zeros(0))
        if not len(hidden):
            raise ValueError(
                'nothing is hidden in any image: there is nothing to judge by, see the masks of val_dataloader'
            )
        metrics: dict[str, float] = {}
        if hidden.any():
            metrics |= _figures(
                {name: values[hidden] for name, values in places.items()}, 'masked_accuracy'
            )
        if not hidden.all():
            metrics |= {
                f'{name}_all': value for name, value in _figures(places, 'accuracy').items()
            }
        if hidden.any() and 'target' in places:
            metrics['token_term'] = places['log_p_tokens'][hidden].double().sum().item() / len(
                results
            )
        if 'pixel' in results[0]:
            metrics['pixel_term'] = sum(r['pixel'] for r in results) / len(results)
            if 'token_term' in metrics:
                metrics['eq3'] = metrics['pixel_term'] + metrics['token_term']
        return metrics


def _figures(places: dict[str, Tensor], accuracy: str) -> dict[str, float]:
    """Return the means over places; their share of right predictions is called `accuracy`."""
    if 'mse' in places:
        return dict(val_loss=places['mse'].mean().item())
    target = places['target']
    counts: Tensor = histogram(target, int(target.max()) + 1)
    return {
        'val_loss': -places['log_p_tokens'].double().mean().item(),
        'marginal_entropy': perplexity(counts).log().item(),
        accuracy: 100 * (target == places['prediction']).float().mean().item(),
        'marginal_accuracy': 100 * (counts.max() / len(target)).item(),
    }
