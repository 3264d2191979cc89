"""The codebook starts from the data once: in a run from scratch, before its first iteration."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from beit_mm.engine import InitCodebook
from beit_mm.models import DiscreteVAE

VAE = dict(vocab_size=16, width=8, groups=2, blocks=1, width_in=4)


def run(model, iteration: int = 0, **config) -> SimpleNamespace:
    """What the hook reads of a Runner: forty images, in batches of eight."""
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    own = torch.Generator()  # that the loader leaves the global one alone
    loader = DataLoader([dict(inputs=image) for image in images], batch_size=8, generator=own)
    logger = MMLogger.get_current_instance()
    return SimpleNamespace(
        model=model,
        iter=iteration,
        cfg=Config(config),
        train_dataloader=loader,
        logger=logger,
        images=images,
    )


def vae(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**VAE, **kwargs)


def row(model: DiscreteVAE) -> torch.Tensor:
    return model.encoder.output.conv.weight.detach().clone()


@pytest.mark.parametrize('init_cfg', [None, dict(type='Pretrained', checkpoint=None)])
def test_codes_are_those_of_the_first_training_images(init_cfg):
    by_hook, by_hand = vae(init_cfg=init_cfg), vae()
    by_hook.init_weights()  # a checkpoint of None is from scratch
    by_hand.load_state_dict(by_hook.state_dict())
    runner = run(by_hook)
    torch.manual_seed(2)
    InitCodebook(num_images=20, sharpness=3.0).before_train(runner)  # whole batches: 24
    torch.manual_seed(2)
    by_hand.init_codebook(runner.images[:24], 3.0)
    assert torch.equal(row(by_hook), row(by_hand)) and not torch.equal(row(by_hook), row(vae()))


def test_a_smaller_data_set_is_taken_whole():
    by_hook, by_hand = vae(), vae()
    runner = run(by_hook)
    torch.manual_seed(2)
    InitCodebook(num_images=1000).before_train(runner)
    torch.manual_seed(2)
    by_hand.init_codebook(runner.images)
    assert torch.equal(row(by_hook), row(by_hand))


@pytest.mark.parametrize('how', ['resumed', 'load_from', 'init_cfg'])
def test_weights_that_were_trained_stay(how):
    model = vae(init_cfg=dict(type='Pretrained', checkpoint='a.pth') if how == 'init_cfg' else None)
    before = row(model)
    config = dict(load_from='a.pth') if how == 'load_from' else {}
    InitCodebook().before_train(run(model, 100 if how == 'resumed' else 0, **config))
    assert torch.equal(row(model), before)


class Watched(DiscreteVAE):
    """Notes the first pixel of each image that an iteration trains on."""

    def loss(
        self, inputs: torch.Tensor, data_samples: list | None = None
    ) -> dict[str, torch.Tensor]:
        self.seen = [*getattr(self, 'seen', []), *inputs[:, 0, 0, 0].tolist()]
        return super().loss(inputs, data_samples)


def train(folder, images: torch.Tensor, iters: int, seed: int, **config) -> Watched:
    """A run whose iterations change no weight."""
    cfg = dict(
        work_dir=str(folder),
        model=Watched(**VAE),
        train_dataloader=DataLoader(
            [dict(inputs=image) for image in images],
            batch_size=8,
            num_workers=1,
            persistent_workers=True,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        custom_hooks=[InitCodebook(num_images=24)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        randomness=dict(seed=seed),
        experiment_name=f'{folder.name}_{seed}',
        log_level='WARNING',
        **config,
    )
    return Runner(**cfg, cfg=Config(config)).train()


@pytest.mark.long  # that a resumed tokenizer keeps its codes is in test_determinism.py as well
def test_a_run_uses_its_codes_begins_with_its_first_image_and_keeps_the_codes_when_resumed(
    tmp_path,
):
    images = run(None).images
    first = train(tmp_path, images, 2, seed=1)
    assert first.seen == images[:16, 0, 0, 0].tolist()  # the images of the codebook are trained on
    assert len(first.tokens(images[:24]).unique()) >= 0.9 * VAE['vocab_size']
    others = images.flip(0)  # would make another codebook
    resumed = train(tmp_path, others, 4, seed=2, resume=True)
    assert resumed.seen == others[16:32, 0, 0, 0].tolist()
    loaded = train(tmp_path / 'more', images, 1, seed=3, load_from=str(tmp_path / 'iter_2.pth'))
    again = train(tmp_path / 'again', images, 1, seed=4)
    assert torch.equal(row(resumed), row(first)) and torch.equal(row(loaded), row(first))
    assert not torch.equal(row(again), row(first))


def test_a_model_without_codebook_is_an_error():
    with pytest.raises(
        ValueError, match=r'Linear has no codebook: InitCodebook is for beit_mm\.DiscreteVAE'
    ):
        InitCodebook().before_train(run(torch.nn.Linear(1, 1)))
