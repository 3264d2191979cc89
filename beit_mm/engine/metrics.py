"""What the two pre-training stages are judged by, over a whole validation set."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ..models.distributed import histogram
from ..models.dvae import perplexity
from ..registry import METRICS
from ..settings import whole


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Of a `DiscreteVAE`'s predictions: `psnr` and that of the mean colour (dB), `codes_used` of `codes`, `perplexity`,
    `reconstruction` and `kl` (nats a subpixel, nats a token) and their `elbo` (nats a subpixel).

    Warns when less than a tenth of the codebook is used.
    """

    default_prefix = 'tokenizer'

    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(**kwargs)
        whole(2, vocab_size=vocab_size)
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
        used = int((counts > 0).sum())
        if used < 0.1 * self.vocab_size:
            MMLogger.get_current_instance().warning(
                f'the codebook is collapsing: {used} of {self.vocab_size} codes are used. Mends: the InitCodebook hook, a larger '
                'marginal_weight than information_weight, a slower temperature schedule, more images a batch'
            )
        means = {k: sum(r[k] for r in results) / len(results) for k in results[0] if k != 'counts'}
        return dict(**means, codes=self.vocab_size, codes_used=used, perplexity=perplexity(counts).item())


@METRICS.register_module()
class MIMMetric(BaseMetric):
    """Of a `BEiTPretrainer`'s predictions. Of tokens: `val_loss` (nats a masked token) beside `marginal_entropy`, the loss of a
    model that ignores the image; `masked_accuracy` beside `marginal_accuracy`, the commonest token's share (%).

    And the two terms of the paper's eq. 3, nats an image: `token_term`, ln p(ẑ | x̃) of the hidden tokens, and
    `pixel_term`, ln p(x | ẑ) of the tokenizer's decoder, with their sum `eq3`. Of pixels: `val_loss`, the mean squared error
    of the images of which something is hidden. Raises ValueError when nothing is hidden in any.
    """

    default_prefix = 'mim'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if 'mse' in sample:
                if sample['valid'].any():
                    self.results.append(dict(mse=sample['mse'].item()))
                continue
            valid = sample['valid']
            target, prediction = sample['target'][valid].cpu(), sample['prediction'][valid].cpu()
            entry = dict(
                target=target, correct=int((target == prediction).sum()), token=sample['mim_log_likelihood'].item()
            )
            if 'log_likelihood' in sample:
                entry['pixel'] = sample['log_likelihood'].item()
            self.results.append(entry)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        if not results or not any('mse' in r or len(r['target']) for r in results):
            raise ValueError(
                'nothing is hidden in any image: there is nothing to judge by, see the masks of val_dataloader'
            )
        if 'mse' in results[0]:
            return dict(val_loss=sum(r['mse'] for r in results) / len(results))
        targets = torch.cat([r['target'] for r in results])
        counts: Tensor = histogram(targets, int(targets.max()) + 1)
        tokens, images = len(targets), len(results)
        metrics = dict(
            val_loss=-sum(r['token'] for r in results) / tokens,
            marginal_entropy=perplexity(counts).log().item(),
            masked_accuracy=100 * sum(r['correct'] for r in results) / tokens,
            marginal_accuracy=100 * (counts.max() / tokens).item(),
            token_term=sum(r['token'] for r in results) / images,
        )
        if 'pixel' in results[0]:
            metrics['pixel_term'] = sum(r['pixel'] for r in results) / images
            metrics['eq3'] = metrics['pixel_term'] + metrics['token_term']
        return metrics
