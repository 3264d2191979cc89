"""Look at a run's representations while it trains, on a few images that are held back."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATASETS, FUNCTIONS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...data.seeded import seeded
from ...models import BEiT, BEiTPretrainer, DiscreteVAE, TokenTarget
from ...models.attention import attention_weights
from ...registry import HOOKS
from ...utils.arguments import check_integers
from ...utils.unwrap_model import unwrap_model
from ..measures import attention_distance, code_usage, effective_rank, knn_top1, linear_probe
from ..metrics import MIMMetric, TokenizerMetric

MEASURES = (
    'knn_top1',
    'linear_top1',
    'effective_rank',
    'attention_distance',
    'code_usage',
    'masked_tokens',
)
CLASSES = 20  # at most: a class needs some images among a few hundred


@HOOKS.register_module()
class Probe(Hook):
    """Every `interval` iterations, measure the model on held-out images; log the numbers under `probe/`, and warn in words.

    | measure | of | |
    |---|---|---|
    | knn_top1, linear_top1 | each block's mean patch, % | labels: the data set's, or the folders that its images lie in |
    | effective_rank | each block's mean patch | |
    | attention_distance | each block's heads, pixels | |
    | code_usage | a tokenizer's codes, or those that pre-training predicts | all of TokenizerMetric's |
    | masked_tokens | pre-training's predictions | all of MIMMetric's |

    It measures the weights that train, not their moving average, and sees whole images, except for masked_tokens. The
    model's modes and all random numbers are left as they were: the run ends with the same bits. Ranks share the images.

    Args:
        interval: iterations, or with `by_epoch` epochs. None: a hundredth of the run, but a hundred images are trained
            on for one that is measured. Both take about as long, so that this is 1 % of the time; the log says `seconds`.
        num_images: how many, of at most twenty classes; they are read once and kept.
        dataloader: key of the config, or a data loader's config: whose data set, collate_fn and batch_size are used.
        measures: names of the table; None: all that this model and these images allow.

    Raises ValueError for a measure that is unknown, or that the model or the images do not allow.
    """

    def __init__(
        self,
        interval: int | None = None,
        by_epoch: bool = False,
        num_images: int = 500,
        dataloader: str | dict = 'val_dataloader',
        measures: list[str] | None = None,
    ):
        if not isinstance(measures, list | tuple | None) or any(
            name not in MEASURES for name in measures or ()
        ):
            raise ValueError(
                f'measures={measures!r}: give None, or a list of {", ".join(MEASURES)}'
            )
        check_integers(2, num_images=num_images)
        if interval is not None or by_epoch:
            check_integers(1, interval=interval)
        if not isinstance(dataloader, str | dict):
            raise TypeError(
                f'dataloader={dataloader!r}: give a key of the config, or the config of a data loader'
            )
        self.interval, self.by_epoch, self.num_images = interval, by_epoch, num_images
        self.dataloader, self.measures = dataloader, measures
        self.begins = True  # every model is at the marginal then

    # -- what and when -----------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        loader = self.dataloader
        if isinstance(loader, str):
            if not runner.cfg.get(loader):
                raise ValueError(
                    f'Probe: the config has no {loader}: name another with dataloader=…'
                )
            loader = runner.cfg[loader]
        with seeded(0):
            dataset = DATASETS.build(loader['dataset'])
            known = labels_of(dataset)
            picks = choose(known, self.num_images)
            self.picks = picks[get_rank() :: get_world_size()]
            collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type'])
            size = loader.get('batch_size', 1)
            self.batches = [
                collate([dataset[int(pick)] for pick in self.picks[i : i + size]])
                for i in range(0, len(self.picks), size)
            ]
        self.labels = torch.from_numpy(np.unique(known[picks], return_inverse=True)[1])
        allowed = self._allowed(unwrap_model(runner))
        self.chosen = self.measures or allowed
        refused = [name for name in self.chosen if name not in allowed]
        if refused or not allowed:
            raise ValueError(
                f'Probe: {type(unwrap_model(runner)).__name__} on these images has no {", ".join(refused) or "measure"}; it allows '
                f'{", ".join(allowed) or "nothing"}'
            )
        if self.interval is None:
            batch = runner.train_dataloader.batch_sampler.batch_size * get_world_size()
            self.interval = max(runner.max_iters // 100, -(-100 * len(picks) // batch))
        unit = 'epochs' if self.by_epoch else 'iterations'
        runner.logger.info(
            f'probe: {", ".join(self.chosen)} of {len(picks)} images every {self.interval} {unit}'
        )

    def _allowed(self, model: nn.Module) -> list[str]:
        if isinstance(model, DiscreteVAE):
            return ['code_usage']
        if not isinstance(getattr(model, 'backbone', None), BEiT):
            return []
        tokens = isinstance(model, BEiTPretrainer) and isinstance(model.target, TokenTarget)
        left_out = (() if self.labels.any() else MEASURES[:2]) + (() if tokens else MEASURES[4:])
        return [name for name in MEASURES if name not in left_out]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if not self.by_epoch and (
            self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)
        ):
            self._probe(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.by_epoch and (
            self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        ):
            self._probe(runner, runner.iter)

    def _probe(self, runner: Runner, iterations: int) -> None:
        begun = time.perf_counter()
        self.begins = self.begins and iterations < runner.max_iters
        values, alarms = self.measure(
            unwrap_model(runner), isinstance(runner.optim_wrapper, AmpOptimWrapper)
        )
        self.begins = False
        values['seconds'] = time.perf_counter() - begun
        runner.visualizer.add_scalars(
            {f'probe/{name}': value for name, value in values.items()}, step=iterations
        )
        runner.logger.info(f'probe: {in_words(values)}')
        for alarm in alarms:
            runner.logger.log(logging.WARNING, f'probe: {alarm}')

    # -- measuring ---------------------------------------------------------------------------------------------------

    def measure(self, model: nn.Module, amp: bool = False) -> tuple[dict[str, float], list[str]]:
        """Numbers by name, `MEASURE/layer_1`, …, and what is wrong, in words. All ranks have to call it; all get the same."""
        device = next(model.parameters()).device
        with left_as_it_was(model), torch.no_grad(), torch.autocast(device.type, enabled=amp):
            read = [self._read(model, batch) for batch in self.batches]
        everyone = all_gather_object((self.picks.tolist(), read))
        order = np.argsort([pick for picks, _ in everyone for pick in picks])
        rows: dict[str, list] = {}
        for _, parts in everyone:
            for part in parts:
                for name, of_images in part.items():
                    rows.setdefault(name, []).extend(of_images)
        return self._judge(model, {name: [found[i] for i in order] for name, found in rows.items()})

    def _read(self, model: nn.Module, batch: dict) -> dict[str, list]:
        """What the numbers are made from, by name, an entry an image."""
        inputs = model.data_preprocessor(batch, False)['inputs']
        found: dict[str, list] = {}
        if isinstance(model, DiscreteVAE):
            found['metric'] = _results(TokenizerMetric(model.vocab_size), model.predict(inputs))
        elif set(self.chosen) & set(MEASURES[:4]):
            found |= self._read_blocks(model.backbone, inputs)
        if not isinstance(model, DiscreteVAE) and set(self.chosen) & set(MEASURES[4:]):
            # With ids in place of the view, nothing is decoded.
            ids = model.target(inputs)
            inputs = {key: value for key, value in inputs.items() if key != 'token_view'} | dict(
                token_ids=ids
            )
            samples = model.predict(inputs)
            found['metric'] = _results(MIMMetric(), samples)
            found['predicted'] = [sample.prediction[sample.valid].cpu() for sample in samples]
        return found

    def _read_blocks(
        self, backbone: BEiT, inputs: Tensor | dict[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Of each image, `features`: the mean patch behind each block [L, D], `distances`: each head's [L, H]."""
        images, patch = (
            inputs['patch_view'] if isinstance(inputs, dict) else inputs,
            backbone.patch_size,
        )
        grid = tuple(side // patch for side in images.shape[-2:])
        images = images[
            ..., : grid[0] * patch, : grid[1] * patch
        ]  # segmentation cuts its windows elsewhere
        means, distances = [], []

        def attend(module: nn.Module, inputs: tuple) -> None:
            found = attention_distance(attention_weights(module, *inputs).float(), grid, patch)
            distances.append(found.cpu())

        hooks = [
            block.register_forward_hook(
                lambda module, inputs, x: means.append(x[:, 1:].mean(1).float().cpu())
            )
            for block in backbone.blocks
        ]
        if 'attention_distance' in self.chosen:
            hooks += [block.attn.register_forward_pre_hook(attend) for block in backbone.blocks]
        try:
            backbone(images)
        finally:
            for hook in hooks:
                hook.remove()
        found = dict(features=means, distances=distances)
        return {name: list(torch.stack(layers, 1)) for name, layers in found.items() if layers}

    def _judge(self, model: nn.Module, rows: dict[str, list]) -> tuple[dict[str, float], list[str]]:
        values, alarms = {}, []
        by_layer = torch.stack(rows['features'], 1) if 'features' in rows else []
        one_layer = dict(
            knn_top1=lambda x: knn_top1(x, self.labels),
            linear_top1=lambda x: linear_probe(x, self.labels),
            effective_rank=effective_rank,
        )
        for name in (name for name in one_layer if name in self.chosen):
            values |= {
                f'{name}/layer_{i}': one_layer[name](features)
                for i, features in enumerate(by_layer, 1)
            }
        if 'attention_distance' in self.chosen:
            for i, heads in enumerate(torch.stack(rows['distances']).mean(0).tolist(), 1):
                values |= {
                    f'attention_distance/layer_{i}/head_{j}': pixels
                    for j, pixels in enumerate(heads, 1)
                }
        if (rank := values.get(f'effective_rank/layer_{len(by_layer)}', 2)) < 2:
            alarms.append(
                f'features collapse: images look the same to the last block (effective rank {rank:.2f}). Mends: a lower '
                'learning rate, longer warm-up, in short runs a larger patch_embed_std'
            )
        if isinstance(model, DiscreteVAE):
            return values | TokenizerMetric(model.vocab_size).compute_metrics(
                rows['metric']
            ), alarms
        if 'code_usage' in self.chosen:
            used, spread = code_usage(torch.cat(rows['predicted']), model.target.channels)
            values |= dict(predicted_codes_used=used, predicted_perplexity=spread)
        if 'masked_tokens' in self.chosen:
            values |= MIMMetric().compute_metrics(rows['metric'])
            alarms += self._at_the_marginal(
                values, sum(len(result['target']) for result in rows['metric'])
            )
        return values, alarms

    def _at_the_marginal(self, values: dict[str, float], tokens: int) -> list[str]:
        if 'masked_accuracy' in values:
            right, chance = values['masked_accuracy'], values['marginal_accuracy']
        else:  # nothing is hidden
            right, chance = values['accuracy_all'], values['marginal_accuracy_all']
        noise = (chance * (100 - chance) / tokens) ** 0.5
        if self.begins or right > chance + 2 * noise:
            return []
        return [
            f'accuracy is {right:.2f} %, always guessing the commonest token makes {chance:.2f} %: the model ignores the '
            'image. Mends: check a few masks and tokens by eye, another learning rate, in short runs a larger patch_embed_std'
        ]


def labels_of(dataset) -> np.ndarray:
    """A class of each sample: its label, else the folder that it lies in."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if all(isinstance(info.get('gt_label'), (int, np.integer)) for info in infos):
        return np.array([info['gt_label'] for info in infos])
    return np.array([str(Path(info['img_path']).parent) for info in infos])


def choose(labels: np.ndarray, images: int) -> np.ndarray:
    """Rising indices of `images` samples (fewer where there are fewer), of at most CLASSES classes, always the same."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.unique(labels))[:CLASSES]
    among = rng.permutation(np.flatnonzero(np.isin(labels, classes)))
    return np.sort(among[:images])


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Inside, the model evaluates; afterwards its modules' modes and all random numbers are as before."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with seeded(0), torch.random.fork_rng([device] if device.type == 'cuda' else []):
            yield
    finally:
        for module, training in modes:
            module.training = training


def in_words(values: dict[str, float]) -> str:
    """One line; a measure of each layer is a row of numbers, the last part of its name left out."""
    rows: dict[str, list[float]] = {}
    for name, value in values.items():
        rows.setdefault(name.split('/layer_')[0], []).append(value)
    shown = {name: row if len(row) <= 24 else [min(row), max(row)] for name, row in rows.items()}
    return ', '.join(
        f'{name} {" ".join(f"{value:.4g}" for value in row)}' for name, row in shown.items()
    )


def _results(metric, samples: list) -> list[dict]:
    metric.process({}, [sample.to_dict() for sample in samples])
    return metric.results
