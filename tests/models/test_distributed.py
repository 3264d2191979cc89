"""Two gloo processes: their gradients are those of one process on the joined batch, whoever has which share of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from beit_mm.models import BEiTPretrainer, DiscreteVAE
from beit_mm.models.distributed import histogram, mean_over_ranks, sum_over_ranks, world_size
from beit_mm.models.dvae import kl_to_uniform

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
RANKS = 2
HIDDEN = dict(
    different=(5, 3, 1, 2), none_on_one_rank=(5, 3, 0, 0)
)  # masked patches of each image, two images a rank
CASES = [
    ('TokenTarget', 'masked', 'different'),
    ('TokenTarget', 'masked', 'none_on_one_rank'),
    ('TokenTarget', 'all', 'different'),
    ('PixelTarget', 'masked', 'different'),
]
VAE = dict(
    vocab_size=16, width=8, groups=2, blocks=1, width_in=4, beta=50.0, information_weight=0.3
)


def pretrainer(target: str, recover: str) -> BEiTPretrainer:
    torch.manual_seed(0)
    own = (
        dict(tokenizer=dict(type='DiscreteVAE', **VAE))
        if target == 'TokenTarget'
        else dict(patch_size=8)
    )
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    model = BEiTPretrainer(
        backbone=dict(
            type='BEiT',
            arch=arch,
            img_size=32,
            patch_size=8,
            mask_token=True,
            rel_pos_bias='shared',
            layer_scale=0.1,
        ),
        target=dict(type=target, recover=recover, **own),
        head=dict(
            type='MIMHead', in_channels=16, out_channels=16 if target == 'TokenTarget' else 192
        ),
        num_masked=6,
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double()


def batch(hidden: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(len(hidden), 16, dtype=torch.bool)
    for row, n in zip(mask, hidden, strict=True):
        row[torch.randperm(16, generator=rng)[:n]] = True
    return dict(
        patch_view=torch.randn(len(hidden), 3, 32, 32, dtype=torch.float64, generator=rng),
        token_ids=torch.randint(16, (len(hidden), 4, 4), generator=rng),
        mask=mask.unflatten(1, (4, 4)),
    )


def images() -> torch.Tensor:
    """Two dark ones, then two bright ones."""
    noise = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return 0.4 * noise + torch.tensor([0.0, 0, 0.6, 0.6]).view(4, 1, 1, 1)


def vae() -> DiscreteVAE:
    """A tokenizer whose posteriors are sharp, so that the parts of its KL differ."""
    torch.manual_seed(0)
    model = DiscreteVAE(**VAE).double()
    model.encoder.output.conv.weight.data *= 10
    return model


def share(x, rank: int):
    """A rank's images of the joined batch."""
    return (
        {k: v.chunk(RANKS)[rank] for k, v in x.items()}
        if isinstance(x, dict)
        else x.chunk(RANKS)[rank]
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n.removeprefix('module.'): p.grad.clone() for n, p in model.named_parameters()}


def work(rank: int, port: int, folder: Path) -> None:
    """What each of the two processes does: saves what it logged and the gradients that DDP left."""
    store = dist.TCPStore('127.0.0.1', port, is_master=False)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=RANKS)
    saved = {}
    for target, recover, hidden in CASES:
        model = DistributedDataParallel(pretrainer(target, recover))
        logged = model(share(batch(HIDDEN[hidden]), rank), mode='loss')
        logged['loss'].backward()
        saved[target, recover, hidden] = (
            {k: v.detach() for k, v in logged.items()},
            gradients(model),
        )

    model = DistributedDataParallel(vae())
    torch.manual_seed(10 + rank)  # of the Gumbel noise
    logged = model(share(images(), rank), mode='loss')
    logged['loss'].backward()
    saved['vae'] = {k: v.detach() for k, v in logged.items()}, gradients(model)

    made = vae()
    made.init_codebook(share(images(), rank))
    saved['codebook'] = made.state_dict()
    torch.save(saved, folder / f'{rank}.pth')
    dist.barrier()  # one that leaves first can make gloo abort the other
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory) -> list[dict]:
    """What the ranks saved."""
    folder = tmp_path_factory.mktemp('ranks')
    path = os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(ROOT)]))
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=path)
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)  # any free port
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(store.port), folder],
            env=env,
            text=True,
            stderr=subprocess.PIPE,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f'{rank}.pth') for rank in range(RANKS)]


def assert_equal_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


@pytest.mark.parametrize('case', CASES, ids='-'.join)
def test_pre_training_on_two_ranks_has_the_gradient_of_the_joined_batch(ranks, case):
    """With other numbers of hidden patches on each rank, or none on one, and without `find_unused_parameters`."""
    target, recover, hidden = case
    model, inputs = pretrainer(target, recover), batch(HIDDEN[hidden])
    expected = model.loss(inputs)
    expected['loss'].backward()
    for logged, found in (saved[case] for saved in ranks):
        assert_equal_gradients(found, gradients(model))
        assert logged.keys() == expected.keys()
    for name, value in expected.items():
        mean = torch.stack([saved[case][0][name] for saved in ranks]).mean()
        torch.testing.assert_close(mean, value.detach(), rtol=1e-6, atol=0, msg=name)


def test_a_mean_on_each_rank_would_have_another_gradient():
    """What the test above is able to see."""
    model, inputs = pretrainer('TokenTarget', 'masked'), batch(HIDDEN['different'])
    model.loss(inputs)['loss'].backward()
    joined = gradients(model)['head.proj.weight']
    model.zero_grad()
    (sum(model.loss(share(inputs, rank))['loss'] for rank in range(RANKS)) / RANKS).backward()
    assert (gradients(model)['head.proj.weight'] - joined).norm() > 0.1 * joined.norm()


def test_the_tokenizer_on_two_ranks_has_the_gradient_of_the_joined_batch(ranks):
    """q̄, the codes' mean use, is taken over all images. The rest is a mean of the ranks', each with its own noise."""
    model = vae()
    reconstructions = []
    for rank in range(RANKS):
        torch.manual_seed(10 + rank)
        model.beta = 0.0
        reconstructions.append(model.loss(share(images(), rank))['loss'])
    information, marginal = kl_to_uniform(model.logits(images()).log_softmax(1))
    (sum(reconstructions) / RANKS + 50 / 12 * (0.3 * information + marginal)).backward()
    for logged, found in (saved['vae'] for saved in ranks):
        assert_equal_gradients(found, gradients(model))
        torch.testing.assert_close(logged['marginal_kl'], marginal.detach())
    mean = (ranks[0]['vae'][0]['information'] + ranks[1]['vae'][0]['information']) / 2
    torch.testing.assert_close(mean, information.detach())

    of_each = [
        kl_to_uniform(model.logits(share(images(), rank)).log_softmax(1))[1]
        for rank in range(RANKS)
    ]
    assert sum(of_each) / RANKS > 1.05 * marginal  # q̄ of each rank alone would be another loss


def test_all_ranks_start_with_one_codebook(ranks):
    first, second = (saved['codebook'] for saved in ranks)
    assert not torch.equal(first['encoder.output.conv.weight'], vae().encoder.output.conv.weight)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_without_a_process_group_a_reduction_is_the_identity():
    x = torch.randn(3, requires_grad=True)
    assert world_size() == 1 and sum_over_ranks(x) is x and torch.equal(mean_over_ranks(x), x)


def test_histogram_counts():
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(histogram(ids, 9), torch.bincount(ids.flatten(), minlength=9).float())


if __name__ == '__main__':
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
