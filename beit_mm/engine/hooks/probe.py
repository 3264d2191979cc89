"""Measurements of a model while it trains, on a few held-out images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATASETS, FUNCTIONS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ...data.seeded import seeded
from ...models import BEiT, BEiTPretrainer, Tokenizer, TokenTarget
from ...models.histogram import histogram, perplexity
from ...registry import HOOKS
from ...utils.arguments import check_integers
from ...utils.unwrap_model import unwrap_model
from ..measures import MIN_RANK, effective_rank, knn_top1, linear_probe, measure_blocks
from ..metrics import MIMMetric, TokenizerMetric

MAX_CLASSES = 20  # a class needs several images among a few hundred


@HOOKS.register_module()
class Probe(Hook):
    """Hook that measures the model on held-out images and logs the values under `probe/`.

    - Each block: `knn_top1` and `linear_top1` (%), `effective_rank`, `attention_distance` of each
      head (pixels). Classes are those of the data set, or the folders of its images; with a single
      class the first two are skipped.
    - A tokenizer: the values of `TokenizerMetric`.
    - Pre-training on tokens: the values of `MIMMetric`, `predicted_codes_used` and
      `predicted_perplexity`.

    Logs a warning if features collapse, the codebook collapses, or predictions ignore the image.
    Rank 0 measures the trained weights, not their moving average. The run ends with the same bits
    as a run without the hook.

    Args:
        interval: number of iterations. None: a hundredth of the run, but at least 100 training
            images of rank 0 per measured image. Measuring an image takes about as long as training
            on it, so the hook takes at most 1 % of the time.
        num_images: number of images, of at most 20 classes; they are read once and kept.
        dataloader: key of the config, or config of a data loader, whose `dataset`, `collate_fn` and
            `batch_size` are used.

    Raises ValueError before training if the config has no such data loader, or if the model is
    neither a Tokenizer nor has a beit_mm.BEiT as its backbone.
    """

    def __init__(
        self,
        interval: int | None = None,
        num_images: int = 500,
        dataloader: str | dict = 'val_dataloader',
    ):
        check_integers(2, num_images=num_images)
        if interval is not None:
            check_integers(1, interval=interval)
        self.interval, self.num_images, self.dataloader = interval, num_images, dataloader
        self.is_first = True

    def before_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        model = unwrap_model(runner)
        if not isinstance(getattr(model, 'backbone', model), BEiT | Tokenizer):
            raise ValueError(f'Probe measures a BEiT or a Tokenizer, not {type(model).__name__}')
        self._read_images(runner)
        if self.interval is None:
            batch_size = runner.train_dataloader.batch_sampler.batch_size
            self.interval = max(runner.max_iters // 100, -(-100 * len(self.labels) // batch_size))
        runner.logger.info(f'probe: {len(self.labels)} images every {self.interval} iterations')

    def _read_images(self, runner: Runner) -> None:
        is_key = isinstance(self.dataloader, str)
        loader = runner.cfg.get(self.dataloader) if is_key else self.dataloader
        if not loader:
            raise ValueError(f'Probe: the config has no {self.dataloader}. Set dataloader=…')
        collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type'])
        with seeded(0):
            dataset = DATASETS.build(loader['dataset'])
            classes = find_sample_classes(dataset)
            indices = choose_images(classes, self.num_images)
            images, batch_size = Subset(dataset, indices.tolist()), loader.get('batch_size', 1)
            self.batches = list(DataLoader(images, batch_size, collate_fn=collate))
        self.labels = torch.from_numpy(np.unique(classes[indices], return_inverse=True)[1])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        is_last = self.is_last_train_iter(runner)
        is_due = is_last or self.every_n_train_iters(runner, self.interval)
        if not is_due or not is_main_process():
            return
        start = time.perf_counter()
        amp = isinstance(runner.optim_wrapper, AmpOptimWrapper)
        values, problems = self.measure(unwrap_model(runner), amp, self.is_first and not is_last)
        self.is_first = False
        values['seconds'] = time.perf_counter() - start
        logged = {f'probe/{name}': value for name, value in values.items()}
        runner.visualizer.add_scalars(logged, step=runner.iter + 1)
        runner.logger.info(f'probe: {format_values(values)}')
        for problem in problems:
            runner.logger.warning(f'probe: {problem}')

    def measure(
        self, model: nn.Module, amp: bool = False, is_first: bool = False
    ) -> tuple[dict[str, float], list[str]]:
        """Return values by name, such as `effective_rank/layer_1`, and a warning for each problem.

        The first measurement has no warning about predictions, which are guesses at that time.
        """
        device = next(model.parameters()).device.type
        with evaluation(model), torch.no_grad(), torch.autocast(device, enabled=amp):
            if isinstance(model, Tokenizer):
                return self._evaluate(TokenizerMetric(model.vocab_size), model), []
            values, problems = self._measure_blocks(model)
            if isinstance(model, BEiTPretrainer) and isinstance(model.target, TokenTarget):
                counts = torch.zeros(model.target.channels)
                values |= self._evaluate(MIMMetric(), model, counts)
                values['predicted_codes_used'] = int((counts > 0).sum())
                values['predicted_perplexity'] = perplexity(counts).item()
                problems += [] if is_first else find_guessing(values, int(counts.sum()))
        return values, problems

    def _evaluate(
        self, metric: BaseMetric, model: nn.Module, predicted: Tensor | None = None
    ) -> dict[str, float]:
        """Return a metric of this process alone; add the predicted ids to a histogram, in place."""
        for inputs in self._inputs(model):
            if isinstance(model, BEiTPretrainer):  # ids only, so that no image is decoded
                inputs = inputs | dict(token_ids=model.target(inputs))
                inputs.pop('token_view', None)
            samples = [sample.to_dict() for sample in model.predict(inputs)]
            metric.process({}, samples)
            if predicted is not None:
                for sample in samples:
                    ids = sample['prediction'][sample['valid']]
                    predicted += histogram(ids, len(predicted)).cpu()
        return metric.compute_metrics(metric.results)

    def _inputs(self, model: nn.Module) -> Iterator[Tensor | dict[str, Tensor]]:
        for batch in self.batches:
            yield model.data_preprocessor(batch, False)['inputs']

    def _measure_blocks(self, model: nn.Module) -> tuple[dict[str, float], list[str]]:
        blocks = []
        for batch in self._inputs(model):
            images = batch['patch_view'] if isinstance(batch, dict) else batch
            blocks.append(measure_blocks(model.backbone, images))
        features, distances = (torch.cat(parts, 1) for parts in zip(*blocks, strict=True))

        values = {}
        distances = distances.mean(1).tolist()  # over images
        for layer, (of_images, heads) in enumerate(zip(features, distances, strict=True), 1):
            if self.labels.any():
                values[f'knn_top1/layer_{layer}'] = knn_top1(of_images, self.labels)
                values[f'linear_top1/layer_{layer}'] = linear_probe(of_images, self.labels)
            values[f'effective_rank/layer_{layer}'] = rank = effective_rank(of_images)
            for head, pixels in enumerate(heads, 1):
                values[f'attention_distance/layer_{layer}/head_{head}'] = pixels
        if rank >= MIN_RANK:
            return values, []
        return values, [
            'features collapse: the last block gives all images the same features (effective rank '
            f'{rank:.2f}). Try a lower learning rate, a longer warm-up or, in short runs, a larger '
            'patch_embed_std'
        ]


def find_sample_classes(dataset) -> np.ndarray:
    """Return the class of each sample: its label, or the folder of its image."""
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    if all(isinstance(info.get('gt_label'), int | np.integer) for info in infos):
        return np.array([info['gt_label'] for info in infos])
    return np.array([str(Path(info['img_path']).parent) for info in infos])


def choose_images(classes: np.ndarray, num_images: int) -> np.ndarray:
    """Return ascending indices of random images of at most MAX_CLASSES classes; always the same."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.unique(classes))[:MAX_CLASSES]
    candidates = rng.permutation(np.flatnonzero(np.isin(classes, chosen)))
    return np.sort(candidates[:num_images])


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, then restore the mode of each module and all random states."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with seeded(0), torch.random.fork_rng([device] if device.type == 'cuda' else []):
            yield
    finally:
        for module, training in modes:
            module.training = training


def find_guessing(values: dict[str, float], num_tokens: int) -> list[str]:
    """Return a warning if the accuracy is not above that of the most frequent token."""
    if 'masked_accuracy' in values:
        accuracy, chance = values['masked_accuracy'], values['marginal_accuracy']
    else:  # nothing is masked
        accuracy, chance = values['accuracy_all'], values['marginal_accuracy_all']
    standard_error = (chance * (100 - chance) / num_tokens) ** 0.5
    if accuracy > chance + 2 * standard_error:
        return []
    return [
        f'the model ignores the image: its accuracy is {accuracy:.2f} %, and always predicting the '
        f'most frequent token has {chance:.2f} %. Check some masks and tokens by eye, try another '
        'learning rate or, in short runs, a larger patch_embed_std'
    ]


def format_values(values: dict[str, float]) -> str:
    """Return one line: the values of all layers after one name, of many the lowest and highest."""
    rows: dict[str, list[float]] = {}
    for name, value in values.items():
        rows.setdefault(name.split('/layer_')[0], []).append(value)
    words = []
    for name, row in rows.items():
        shown = row if len(row) <= 24 else [min(row), max(row)]
        words.append(' '.join([name, *(f'{value:.4g}' for value in shown)]))
    return ', '.join(words)
