"""Metrics of the tokenizer and of pre-training on a validation set."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..models.histogram import histogram, perplexity
from ..registry import METRICS
from ..utils.arguments import check_integers

MIN_CODES_USED = 0.1  # of the codebook; with fewer, it has collapsed
# Sums over the patches of all images; the rows after them count how often each id is the target.
_SUMS = ('images', 'decoded', 'log_likelihood', 'patches', 'loss', 'correct')


@METRICS.register_module()
class TokenizerMetric(BaseMetric):
    """Metrics of a `Tokenizer`.

    - `codes_used` of `vocab_size` codes, and their `perplexity`.
    - With a decoder of images: `psnr`, and `psnr_mean_color` of images of one mean color each (dB),
      `reconstruction` (nats per subpixel), `kl` (nats per token), `elbo` (nats per subpixel).
    - With a teacher: `cosine` between its features and the decoded ones, mean over patches.

    Warns if less than a tenth of the codebook is used, and if reconstructions are not better than
    the mean color.
    """

    default_prefix = 'tokenizer'
    DECODED = ('psnr', 'psnr_mean_color', 'reconstruction', 'kl', 'elbo')
    # Sums over images; those after them count the codes.
    SUMS = ('images', 'decoded', *DECODED, 'compared', 'cosine')

    def __init__(self, vocab_size: int, **kwargs):
        check_integers(2, vocab_size=vocab_size)
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            _add_image(self, self._count(sample))

    def _count(self, sample: dict) -> Tensor:
        """Return float64 [len(SUMS) + vocab_size]: the terms of an image, and its code counts."""
        sums = dict.fromkeys(self.SUMS, 0.0) | dict(images=1.0)
        if 'reconstruction' in sample:
            num_tokens, num_subpixels = sample['ids'].numel(), sample['reconstruction'].numel()
            log_likelihood, kl = sample['log_likelihood'].item(), sample['kl'].item()
            sums |= dict(
                decoded=1.0,
                psnr=sample['psnr'].item(),
                psnr_mean_color=sample['psnr_mean_color'].item(),
                reconstruction=-log_likelihood / num_subpixels,
                kl=kl / num_tokens,
                elbo=(log_likelihood - kl) / num_subpixels,
            )
        if 'cosine' in sample:
            sums |= dict(compared=1.0, cosine=sample['cosine'].item())
        counts = histogram(sample['ids'], self.vocab_size).cpu().double()
        return torch.cat([torch.tensor(list(sums.values()), dtype=torch.double), counts])

    def evaluate(self, size: int) -> dict[str, float]:
        return _evaluate_sums(self, size, torch.zeros(1, dtype=torch.double))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        terms, counts = results[0].split([len(self.SUMS), self.vocab_size])
        sums, metrics = dict(zip(self.SUMS, terms.tolist(), strict=True)), {}
        if sums['decoded']:
            metrics |= {name: sums[name] / sums['decoded'] for name in self.DECODED}
        if sums['compared']:
            metrics['cosine'] = sums['cosine'] / sums['compared']
        metrics['vocab_size'] = self.vocab_size
        metrics['codes_used'] = int((counts > 0).sum())
        metrics['perplexity'] = perplexity(counts.float()).item()
        logger = MMLogger.get_current_instance()
        if metrics['codes_used'] < MIN_CODES_USED * self.vocab_size:
            logger.warning(
                f'the codebook collapses: {metrics["codes_used"]} of {self.vocab_size} codes are '
                'used. Try the InitCodebook hook or larger batches, and for a DiscreteVAE a '
                'marginal_weight above information_weight or a slower temperature schedule'
            )
        if sums['decoded'] and metrics['psnr'] <= metrics['psnr_mean_color']:
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
            _add_image(self, _count_patches(sample))

    def evaluate(self, size: int) -> dict[str, float]:
        return _evaluate_sums(self, size, torch.zeros(len(_SUMS), 2, dtype=torch.double))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        sums, counts = results[0][: len(_SUMS)], results[0][len(_SUMS) :].float()
        masked = dict(zip(_SUMS, sums[:, 0].tolist(), strict=True))
        every = dict(zip(_SUMS, sums.sum(1).tolist(), strict=True))
        if not every['patches']:
            raise ValueError(
                'no patch is masked in any image, so there is nothing to evaluate: add a mask to '
                'the pipeline of val_dataloader'
            )
        metrics = {}
        if masked['patches']:
            metrics |= _average(masked, counts[:, 0], 'masked_accuracy')
            if len(counts):
                metrics['log_p_tokens'] = -masked['loss'] / every['images']
        if masked['patches'] < every['patches']:
            over_all = _average(every, counts.sum(1), 'accuracy')
            metrics |= {f'{name}_all': value for name, value in over_all.items()}
        if every['decoded']:
            metrics['log_p_pixels'] = every['log_likelihood'] / every['images']
            if 'log_p_tokens' in metrics:
                metrics['eq3'] = metrics['log_p_pixels'] + metrics['log_p_tokens']
        return metrics


def _count_patches(sample: dict) -> Tensor:
    """Return the rows `_SUMS` and the counts of ids 0, 1, … of an image, float64 [L, 2].

    The first column is of the masked patches and of the image, the second of the visible patches.
    Pixels have no ids.
    """
    valid = sample['valid'].cpu()
    hidden = sample['hidden'].cpu()[valid]
    has_pixels = 'log_likelihood' in sample
    image = [1, has_pixels, sample['log_likelihood'].item() if has_pixels else 0]
    names = ('mse',) if 'mse' in sample else ('log_p_tokens', 'target', 'prediction')
    fields = [sample[name].cpu()[valid] for name in names]
    columns = []
    for chosen, of_image in ((hidden, image), (~hidden, [0, 0, 0])):
        values, *ids = (field[chosen] for field in fields)
        loss = -values.double() if ids else values.double()
        counts = torch.bincount(ids[0]).double() if ids else torch.zeros(0)
        correct = (ids[0] == ids[1]).sum() if ids else 0
        sums = torch.tensor([*of_image, len(loss), loss.sum(), correct], dtype=torch.double)
        columns.append(torch.cat([sums, counts]))
    return pad_sequence(columns)


def _average(sums: dict[str, float], counts: Tensor, accuracy: str) -> dict[str, float]:
    """Return the means over patches, with the accuracy under the given name."""
    loss = sums['loss'] / sums['patches']
    if not len(counts):
        return dict(val_loss=loss)
    return {
        'val_loss': loss,
        'marginal_entropy': perplexity(counts).log().item(),
        accuracy: 100 * sums['correct'] / sums['patches'],
        'marginal_accuracy': 100 * counts.max().item() / sums['patches'],
    }


def _add_image(metric: BaseMetric, sums: Tensor) -> None:
    """Add the sums of an image to the only result of a metric; keep the result before it, too."""
    metric.before_last = metric.results[0] if metric.results else torch.zeros_like(sums)
    metric.results = [_add(metric.before_last, sums)]


def _evaluate_sums(metric: BaseMetric, size: int, empty: Tensor) -> dict[str, float]:
    """Return the metrics over the `size` images of all ranks, from one result of `_add_image` each.

    The first number of a result is its number of images. A rank without images has `empty`.
    """
    total = metric.results[0] if metric.results else empty
    rank, num_ranks = get_dist_info()
    # Samplers give all ranks equally many images: the last one of a rank may be a repetition.
    if total.flatten()[0] > len(range(rank, size, num_ranks)):
        total = metric.before_last
    metric.results = []
    length = torch.tensor(len(total))
    all_reduce(length, 'max')
    total = _add(total, total.new_zeros(length, *total.shape[1:]))
    all_reduce(total)
    metrics = metric.compute_metrics([total])
    return {f'{metric.prefix}/{name}': value for name, value in metrics.items()}


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Add tensors of different lengths; the shorter one is padded with zeros."""
    return pad_sequence([a, b]).sum(1)
