"""Metrics of the tokenizer and of pre-training on a validation set."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ..models.histogram import histogram, perplexity
from ..registry import METRICS
from ..utils.arguments import check_integers


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Metrics of a `DiscreteVAE`.

    - `psnr`, and `psnr_mean_color` of images of one mean color each (dB).
    - `reconstruction` (nats per subpixel), `kl` (nats per token), `elbo` (nats per subpixel).
    - `codes_used` of `vocab_size` codes, and their `perplexity`.

    Warns if less than a tenth of the codebook is used, and if reconstructions are not better than
    the mean color.
    """

    default_prefix = 'tokenizer'
    MEANS = ('psnr', 'psnr_mean_color', 'reconstruction', 'kl', 'elbo')

    def __init__(self, vocab_size: int, **kwargs):
        check_integers(2, vocab_size=vocab_size)
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add to the sum over images, the only result, and keep the last image."""
        for sample in data_samples:
            self.last = self._count(sample)
            self.results = [sum(self.results, self.last)]

    def _count(self, sample: dict) -> Tensor:
        """Return float64 [1 + 5 + vocab_size]: 1 image, the terms of `MEANS`, the code counts."""
        num_tokens, num_subpixels = sample['ids'].numel(), sample['reconstruction'].numel()
        log_likelihood, kl = sample['log_likelihood'], sample['kl']
        terms = [
            sample['psnr'].item(),
            sample['psnr_mean_color'].item(),
            -log_likelihood.item() / num_subpixels,
            kl.item() / num_tokens,
            (log_likelihood - kl).item() / num_subpixels,
        ]
        counts = histogram(sample['ids'], self.vocab_size).cpu().double()
        return torch.cat([torch.tensor([1, *terms], dtype=torch.double), counts])

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the metrics over the `size` images of all ranks."""
        zeros = torch.zeros(1 + len(self.MEANS) + self.vocab_size, dtype=torch.double)
        total, self.results = sum(self.results, zeros), []  # a rank may have no image
        rank, num_ranks = get_dist_info()
        # Samplers give all ranks equally many images: the last one of a rank may be a repetition.
        if total[0] > len(range(rank, size, num_ranks)):
            total = total - self.last
        all_reduce(total)
        metrics = self.compute_metrics([total])
        return {f'{self.prefix}/{name}': value for name, value in metrics.items()}

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        num_images, terms, counts = results[0].split([1, len(self.MEANS), self.vocab_size])
        metrics = dict(zip(self.MEANS, (terms / num_images).tolist(), strict=True))
        metrics['vocab_size'] = self.vocab_size
        metrics['codes_used'] = int((counts > 0).sum())
        metrics['perplexity'] = perplexity(counts.float()).item()
        logger = MMLogger.get_current_instance()
        if metrics['codes_used'] < 0.1 * self.vocab_size:
            logger.warning(
                f'the codebook collapses: {metrics["codes_used"]} of {self.vocab_size} codes are '
                'used. Try the InitCodebook hook, a marginal_weight above information_weight, a '
                'slower temperature schedule, or larger batches'
            )
        if metrics['psnr'] <= metrics['psnr_mean_color']:
            logger.warning(
                'the tokens carry no information about the images: PSNR is '
                f'{metrics["psnr"]:.1f} dB, one mean color per image has '
                f'{metrics["psnr_mean_color"]:.1f} dB. Train longer, check that the Anneal hooks '
                'end before the run, or change the learning rate'
            )
        return metrics


@METRICS.register_module()
class MIMMetric(BaseMetric):
    """Metrics of a `BEiTPretrainer` at masked patches.

    For tokens:

    - `val_loss` (nats per token), and `marginal_entropy`, the loss of ignoring the image.
    - `masked_accuracy`, and `marginal_accuracy` of always predicting the most frequent token (%).
    - Both terms of the paper's eq. 3 in nats per image, and their sum `eq3`: `log_p_tokens`,
      ln p(ẑ | x̃) of the masked tokens, and `log_p_pixels`, ln p(x | ẑ) of the decoder.

    For pixels: `val_loss`, the mean squared error.

    A model that also predicts visible patches (`recover='all'`) has `val_loss_all`,
    `marginal_entropy_all`, `accuracy_all` and `marginal_accuracy_all` over all patches as well, or
    only these if no patch is masked.

    Raises ValueError if there is no patch to predict in any image.
    """

    default_prefix = 'mim'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            names = ('mse',) if 'mse' in sample else ('target', 'prediction', 'log_p_tokens')
            valid = sample['valid']
            result = {name: sample[name][valid].cpu() for name in ('hidden', *names)}
            if 'log_likelihood' in sample:
                result['log_likelihood'] = sample['log_likelihood'].item()
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        if not any(len(result['hidden']) for result in results):
            raise ValueError(
                'no patch is masked in any image, so there is nothing to evaluate: add a mask to '
                'the pipeline of val_dataloader'
            )
        names = [name for name in results[0] if name != 'log_likelihood']
        patches = {name: torch.cat([result[name] for result in results]) for name in names}
        hidden = patches.pop('hidden')
        metrics = {}
        if hidden.any():
            masked = {name: values[hidden] for name, values in patches.items()}
            metrics |= _average(masked, 'masked_accuracy')
            if 'log_p_tokens' in masked:
                total = masked['log_p_tokens'].double().sum().item()
                metrics['log_p_tokens'] = total / len(results)
        if not hidden.all():
            all_patches = _average(patches, 'accuracy')
            metrics |= {f'{name}_all': value for name, value in all_patches.items()}
        if 'log_likelihood' in results[0]:
            total = sum(result['log_likelihood'] for result in results)
            metrics['log_p_pixels'] = total / len(results)
            if 'log_p_tokens' in metrics:
                metrics['eq3'] = metrics['log_p_pixels'] + metrics['log_p_tokens']
        return metrics


def _average(patches: dict[str, Tensor], accuracy: str) -> dict[str, float]:
    """Return the means over patches, with the accuracy under the given name."""
    if 'mse' in patches:
        return dict(val_loss=patches['mse'].mean().item())
    target = patches['target']
    counts = histogram(target, int(target.max()) + 1)
    return {
        'val_loss': -patches['log_p_tokens'].double().mean().item(),
        'marginal_entropy': perplexity(counts).log().item(),
        accuracy: 100 * (target == patches['prediction']).float().mean().item(),
        'marginal_accuracy': 100 * (counts.max() / len(target)).item(),
    }
