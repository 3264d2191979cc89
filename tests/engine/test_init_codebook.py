"""A new run starts its codebook from its first training images; other runs keep theirs."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from beit_mm.engine import InitCodebook
from beit_mm.models import DiscreteVAE

IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
DATA = [dict(inputs=image) for image in IMAGES]


def make_runner(model, iteration: int = 0, **config) -> SimpleNamespace:
    """What the hook reads of a Runner."""
    return SimpleNamespace(
        model=model,
        iter=iteration,
        cfg=Config(config),
        train_dataloader=DataLoader(DATA, batch_size=8, generator=torch.Generator()),
        logger=MMLogger.get_current_instance(),
    )


def make_vae(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(vocab_size=16, width=8, groups=2, blocks=1, width_in=4, **kwargs)


def codes(model: DiscreteVAE) -> torch.Tensor:
    return model.encoder.output.conv.weight.detach().clone()


@pytest.mark.parametrize('init_cfg', [None, dict(type='Pretrained', checkpoint=None)])
@pytest.mark.parametrize(('num_images', 'used'), [(20, 24), (1000, 40)])
def test_codes_start_from_whole_batches_of_the_first_training_images(init_cfg, num_images, used):
    model, expected = make_vae(init_cfg=init_cfg), make_vae()
    model.init_weights()  # a checkpoint of None means from scratch
    expected.load_state_dict(model.state_dict())
    torch.manual_seed(2)
    InitCodebook(num_images, sharpness=3.0).before_train(make_runner(model))
    torch.manual_seed(2)
    expected.init_codebook(IMAGES[:used], 3.0)
    assert torch.equal(codes(model), codes(expected))
    assert not torch.equal(codes(model), codes(make_vae()))


@pytest.mark.parametrize(
    ('init_cfg', 'runner'),
    [
        (None, dict(iteration=100)),
        (None, dict(load_from='a.pth')),
        (dict(type='Pretrained', checkpoint='a.pth'), {}),
    ],
)
def test_trained_weights_stay(init_cfg, runner):
    model = make_vae(init_cfg=init_cfg)
    before = codes(model)
    InitCodebook().before_train(make_runner(model, **runner))
    assert torch.equal(codes(model), before)


def test_training_still_starts_with_the_first_image(train):
    model, seen = make_vae(), []

    def record(_, args: tuple, kwargs: dict) -> None:
        if kwargs.get('mode') == 'loss':
            seen.extend(kwargs['inputs'][:, 0, 0, 0].tolist())

    model.register_forward_pre_hook(record, with_kwargs=True)
    workers = dict(num_workers=1, persistent_workers=True)
    train(model, DATA, InitCodebook(24), iters=2, batch_size=8, **workers)
    assert seen == IMAGES[:16, 0, 0, 0].tolist()
    assert len(model.tokens(IMAGES[:24]).unique()) >= 0.9 * 16


def test_a_model_without_codebook_is_an_error_that_names_the_fix():
    with pytest.raises(ValueError, match=r'Linear has no codebook.*custom_hooks=\[\]'):
        InitCodebook().before_train(make_runner(torch.nn.Linear(1, 1)))
