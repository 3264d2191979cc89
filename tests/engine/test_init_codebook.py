"""A new run starts its codebook from its first training images; other runs keep theirs."""

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


def make_runner(model, iteration: int = 0, **config) -> SimpleNamespace:
    """What the hook reads of a Runner: forty images, in batches of eight."""
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = [dict(inputs=image) for image in images]
    return SimpleNamespace(
        model=model,
        iter=iteration,
        cfg=Config(config),
        train_dataloader=DataLoader(data, batch_size=8, generator=torch.Generator()),
        logger=MMLogger.get_current_instance(),
        images=images,
    )


def make_vae(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**VAE, **kwargs)


def codes(model: DiscreteVAE) -> torch.Tensor:
    return model.encoder.output.conv.weight.detach().clone()


@pytest.mark.parametrize('init_cfg', [None, dict(type='Pretrained', checkpoint=None)])
@pytest.mark.parametrize(('num_images', 'used'), [(20, 24), (1000, 40)])
def test_codes_start_from_whole_batches_of_the_first_training_images(init_cfg, num_images, used):
    model, expected = make_vae(init_cfg=init_cfg), make_vae()
    model.init_weights()  # a checkpoint of None means from scratch
    expected.load_state_dict(model.state_dict())
    runner = make_runner(model)
    torch.manual_seed(2)
    InitCodebook(num_images, sharpness=3.0).before_train(runner)
    torch.manual_seed(2)
    expected.init_codebook(runner.images[:used], 3.0)
    assert torch.equal(codes(model), codes(expected))
    assert not torch.equal(codes(model), codes(make_vae()))


@pytest.mark.parametrize('source', ['resume', 'load_from', 'init_cfg'])
def test_trained_weights_stay(source):
    pretrained = dict(type='Pretrained', checkpoint='a.pth')
    model = make_vae(init_cfg=pretrained if source == 'init_cfg' else None)
    before = codes(model)
    config = dict(load_from='a.pth') if source == 'load_from' else {}
    InitCodebook().before_train(make_runner(model, 100 if source == 'resume' else 0, **config))
    assert torch.equal(codes(model), before)


class Recorder(DiscreteVAE):
    """Records the first pixel of each image that an iteration trains on."""

    def loss(self, inputs: torch.Tensor, data_samples: list | None = None) -> dict:
        self.seen = [*getattr(self, 'seen', []), *inputs[:, 0, 0, 0].tolist()]
        return super().loss(inputs, data_samples)


def test_training_still_starts_with_the_first_image(tmp_path):
    images = make_runner(None).images
    loader = DataLoader(
        [dict(inputs=image) for image in images],
        batch_size=8,
        num_workers=1,
        persistent_workers=True,
    )
    runner = Runner(
        model=Recorder(**VAE),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        custom_hooks=[InitCodebook(24)],
        randomness=dict(seed=1),
        experiment_name=tmp_path.name,
        cfg=Config({}),
    )
    model = runner.train()
    assert model.seen == images[:16, 0, 0, 0].tolist()
    assert len(model.tokens(images[:24]).unique()) >= 0.9 * VAE['vocab_size']


def test_a_model_without_codebook_is_an_error_that_names_the_fix():
    with pytest.raises(ValueError, match=r'Linear has no codebook.*custom_hooks=\[\]'):
        InitCodebook().before_train(make_runner(torch.nn.Linear(1, 1)))
