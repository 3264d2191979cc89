"""The gradients of two gloo processes are those of one process on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small import make_pretrainer
from torch.nn.parallel import DistributedDataParallel

from beit_mm.models import VQKD, BEiT, BEiTPretrainer, DiscreteVAE
from beit_mm.models.cosine_codebook import CosineCodebook
from beit_mm.models.dvae_losses import kl_to_uniform

pytestmark = pytest.mark.any_stack

RANKS = 2
NUM_MASKED = dict(different=(5, 3, 1, 2), none_on_one_rank=(5, 3, 0, 0))  # two images per rank
CASES = [
    ('TokenTarget', 'masked', 'different'),
    ('TokenTarget', 'masked', 'none_on_one_rank'),
    ('TokenTarget', 'all', 'different'),
    ('PixelTarget', 'masked', 'different'),
    ('patch aggregation', 'masked', 'different'),
    ('patch aggregation', 'masked', 'none_on_one_rank'),
]
VAE = dict(
    vocab_size=16, width=8, groups=2, blocks=1, width_in=4, beta=50.0, information_weight=0.3
)


def make_model(name: str, recover: str) -> BEiTPretrainer:
    torch.manual_seed(0)
    channels, target = 192, dict(type='PixelTarget', patch_size=8)
    if name != 'PixelTarget':
        channels = 16
        target = dict(type='TokenTarget', tokenizer=dict(type='DiscreteVAE', **VAE))
    backbone = dict(rel_pos_bias='shared', layer_scale=0.1)
    if name == 'patch aggregation':
        backbone['patch_aggregation'] = dict(layer=2)
    model = make_pretrainer(target | dict(recover=recover), channels, 6, **backbone)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double()


def make_batch(num_masked: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(len(num_masked), 16, dtype=torch.bool)
    for row, n in zip(mask, num_masked, strict=True):
        row[torch.randperm(16, generator=rng)[:n]] = True
    return dict(
        patch_view=torch.randn(len(num_masked), 3, 32, 32, dtype=torch.float64, generator=rng),
        token_ids=torch.randint(16, (len(num_masked), 4, 4), generator=rng),
        mask=mask.unflatten(1, (4, 4)),
    )


def make_images() -> torch.Tensor:
    """Return two dark images, then two bright ones."""
    noise = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return 0.4 * noise + torch.tensor([0.0, 0, 0.6, 0.6]).view(4, 1, 1, 1)


def make_tokenizer() -> DiscreteVAE:
    """Return a tokenizer whose posteriors are sharp, so that the two parts of its KL differ."""
    torch.manual_seed(0)
    model = DiscreteVAE(**VAE).double()
    model.encoder.output.conv.weight.data *= 10
    return model


def make_vqkd(folder: Path) -> VQKD:
    """Return a VQ-KD whose teacher's weights are in `folder`."""
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    backbone = dict(arch=arch, img_size=8, patch_size=2)
    state = {key: torch.randn_like(value) for key, value in BEiT(**backbone).state_dict().items()}
    if not (folder / 'teacher.pth').exists():
        torch.save(state, folder / 'teacher.pth')
    teacher = dict(
        type='Teacher', backbone=dict(backbone, type='BEiT'), channels=16, mean=[0] * 3,
        std=[255] * 3, checkpoint=str(folder / 'teacher.pth'),
    )  # fmt: skip
    model = VQKD(12, 4, dict(backbone, abs_pos_embed=True), teacher=teacher, decay=0.5).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.teacher.module.double()
    return model


def make_vectors() -> torch.Tensor:
    rng = torch.Generator().manual_seed(4)
    vectors = torch.randn(60, 4, dtype=torch.float64, generator=rng)
    return torch.nn.functional.normalize(vectors, dim=1)


def part_of(x, rank: int):
    """Return a rank's images of the joined batch."""
    if isinstance(x, dict):
        return {name: part_of(values, rank) for name, values in x.items()}
    return x.chunk(RANKS)[rank]


def step(model: torch.nn.Module, inputs) -> tuple[dict, dict]:
    """Return what a step logs, and the gradients."""
    logged = model(inputs, mode='loss')
    sum(value for name, value in logged.items() if 'loss' in name).backward()
    gradients = {n.removeprefix('module.'): p.grad.clone() for n, p in model.named_parameters()}
    return {name: value.detach() for name, value in logged.items()}, gradients


def run_rank(rank: int, port: int, folder: Path) -> None:
    store = dist.TCPStore('127.0.0.1', port, is_master=False)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=RANKS)
    saved = {}
    for target, recover, name in CASES:
        model = DistributedDataParallel(make_model(target, recover))
        saved[target, recover, name] = step(model, part_of(make_batch(NUM_MASKED[name]), rank))
    model = DistributedDataParallel(make_tokenizer())
    torch.manual_seed(10 + rank)  # of the Gumbel noise
    saved['tokenizer'] = step(model, part_of(make_images(), rank))
    model = make_tokenizer()
    model.init_codebook(part_of(make_images(), rank))
    saved['codebook'] = model.state_dict()
    vqkd = make_vqkd(folder)
    saved['vqkd'] = step(DistributedDataParallel(vqkd), part_of(make_images(), rank))
    saved['codes'] = vqkd.codebook.codes
    book = CosineCodebook(12, 4, decay=0.5).double()
    torch.manual_seed(20 + rank)
    book.start(part_of(make_vectors(), rank), iterations=0)
    saved['first means'] = book.codes.clone()
    torch.manual_seed(20 + rank)
    book.start(part_of(make_vectors(), rank), iterations=10)
    saved['clusters'] = book.codes
    torch.save(saved, folder / f'{rank}.pth')
    dist.barrier()  # gloo may abort a rank if the other one leaves first
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('ranks')
    make_vqkd(folder)  # writes the teacher
    return folder


@pytest.fixture(scope='module')
def ranks(folder) -> list[dict]:
    """Return what each rank saved."""
    path = os.pathsep.join(sys.path)  # has the folder tests
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=path)
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    processes = []
    for rank in range(RANKS):
        command = [sys.executable, __file__, str(rank), str(store.port), str(folder)]
        processes.append(subprocess.Popen(command, env=env, text=True, stderr=subprocess.PIPE))
    try:
        for process in processes:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f'{rank}.pth') for rank in range(RANKS)]


def assert_equal_gradients(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


@pytest.mark.parametrize('case', CASES, ids='-'.join)
def test_pre_training_on_two_ranks_has_the_gradient_of_the_joined_batch(ranks, case):
    """Also if ranks have different numbers of masked patches, or none."""
    target, recover, name = case
    expected, gradients = step(make_model(target, recover), make_batch(NUM_MASKED[name]))
    for saved in ranks:
        logged, found = saved[case]
        assert logged.keys() == expected.keys()
        assert_equal_gradients(found, gradients)
    for key, value in expected.items():
        mean = torch.stack([saved[case][0][key] for saved in ranks]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0, msg=key)


def test_the_tokenizer_on_two_ranks_has_the_gradient_of_the_joined_batch(ranks):
    """q̄ is a mean over all images. The other terms are means over ranks, each with its own noise."""
    model = make_tokenizer()
    model.beta = 0.0
    reconstruction = 0
    for rank in range(RANKS):
        torch.manual_seed(10 + rank)
        reconstruction += model.loss(part_of(make_images(), rank))['loss'] / RANKS
    information, marginal = kl_to_uniform(model.logits(make_images()).log_softmax(1))
    (reconstruction + 50 / 12 * (0.3 * information + marginal)).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for logged, found in (saved['tokenizer'] for saved in ranks):
        assert_equal_gradients(found, expected)
        torch.testing.assert_close(logged['marginal_kl'], marginal.detach())
    mean = sum(saved['tokenizer'][0]['information'] for saved in ranks) / RANKS
    torch.testing.assert_close(mean, information.detach())


def test_all_ranks_start_with_one_codebook(ranks):
    first, second = (saved['codebook'] for saved in ranks)
    initial = make_tokenizer().encoder.output.conv.weight
    assert not torch.equal(first['encoder.output.conv.weight'], initial)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_vqkd_on_two_ranks_has_the_gradients_and_codes_of_the_joined_batch(ranks, folder):
    model = make_vqkd(folder)
    before = model.codebook.codes.clone()
    expected, gradients = step(model, make_images())
    assert not torch.equal(model.codebook.codes, before)
    for saved in ranks:
        logged, found = saved['vqkd']
        assert_equal_gradients(found, gradients)
        torch.testing.assert_close(saved['codes'], model.codebook.codes, rtol=0, atol=1e-12)
        for key in ('codes_used', 'perplexity'):
            torch.testing.assert_close(logged[key], expected[key])
    for key in ('loss', 'cosine', 'code_distance'):
        mean = torch.stack([saved['vqkd'][0][key] for saved in ranks]).mean()
        torch.testing.assert_close(mean, expected[key], rtol=1e-6, atol=0)


def test_k_means_on_two_ranks_clusters_the_features_of_both(ranks):
    book, vectors = CosineCodebook(12, 4, decay=0.5).double(), make_vectors()
    book.codes.copy_(ranks[0]['first means'])
    for _ in range(10):
        ids = book.nearest(vectors)
        for code in ids.unique():
            mean = vectors[ids == code].mean(0)
            book.codes[code] = mean / mean.norm()
    assert not torch.equal(book.codes, ranks[0]['first means'])
    for saved in ranks:
        assert torch.equal(saved['first means'], ranks[0]['first means'])
        torch.testing.assert_close(saved['clusters'], book.codes, rtol=0, atol=1e-12)


if __name__ == '__main__':
    run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
