"""The codebook starts from the data once: in a run from scratch, before its first iteration."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
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
        model=model, iter=iteration, cfg=Config(config), train_dataloader=loader, logger=logger, images=images
    )


def vae(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**VAE, **kwargs)


def row(model: DiscreteVAE) -> torch.Tensor:
    return model.encoder.output.conv.weight.detach().clone()


def test_codes_are_those_of_the_first_training_images():
    by_hook, by_hand = vae(), vae()
    runner = run(by_hook)
    torch.manual_seed(2)
    InitCodebook(images=20, sharpness=3.0).before_train(runner)  # whole batches: 24
    torch.manual_seed(2)
    by_hand.init_codebook(runner.images[:24], 3.0)
    assert torch.equal(row(by_hook), row(by_hand)) and not torch.equal(row(by_hook), row(vae()))


def test_a_smaller_data_set_is_taken_whole():
    by_hook, by_hand = vae(), vae()
    runner = run(by_hook)
    torch.manual_seed(2)
    InitCodebook(images=1000).before_train(runner)
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


def test_a_model_without_codebook_is_an_error():
    with pytest.raises(ValueError, match=r'Linear has no codebook: InitCodebook is for beit_mm\.DiscreteVAE'):
        InitCodebook().before_train(run(torch.nn.Linear(1, 1)))
