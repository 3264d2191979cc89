"""VQ-KD computes what the paper says; its codebook follows the data and survives bad steps."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import ARCH

from beit_mm.models import VQKD, BEiT, Teacher
from beit_mm.models.cosine_codebook import CosineCodebook

ENCODER = dict(arch=dict(ARCH, num_layers=2), img_size=32, patch_size=8)
TEACHER_ARCH = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48)
NORMALIZATION = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0])


@pytest.fixture(scope='module')
def teacher(tmp_path_factory) -> dict:
    """Return the config of a trained teacher whose features depend on the image."""
    torch.manual_seed(3)
    backbone = dict(type='BEiT', arch=TEACHER_ARCH, img_size=32, patch_size=8, abs_pos_embed=True)
    model = BEiT(**{k: v for k, v in backbone.items() if k != 'type'})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return dict(
        type='Teacher', backbone=backbone, channels=24, checkpoint=str(path), **NORMALIZATION
    )


def make(teacher: dict | None, **changes) -> VQKD:
    torch.manual_seed(0)
    model = VQKD(**dict(vocab_size=24, code_dims=6, encoder=ENCODER, teacher=teacher) | changes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def make_images(count: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 32, 32, generator=generator, dtype=torch.float64)


def test_the_loss_is_cosine_to_the_teacher_plus_the_distance_to_the_code(teacher):
    model, images = make(teacher, beta=0.7), make_images()
    model.teacher.module.double()
    codes = model.codebook.codes.clone()
    logged = model(images, mode='loss')
    x = model.encoder(2 * images - 1)[0][:, 1:]
    z = F.normalize(model.encoder_head(x), dim=-1)
    distances = torch.cdist(z, codes.expand(4, -1, -1))
    ids = distances.argmin(-1)
    assert torch.equal(ids.unflatten(1, (4, 4)), make(teacher).tokens(images))
    code_map = codes[ids].transpose(1, 2).unflatten(-1, (4, 4))
    decoded = model.decoder_head(model.decoder(code_map)[0][:, 1:])
    mean, std = (torch.tensor(NORMALIZATION[k]).double().view(3, 1, 1) for k in ('mean', 'std'))
    features = model.teacher.network((255 * images - mean) / std)[0][:, 1:]
    cosine = (F.normalize(decoded, dim=-1) * F.normalize(features, dim=-1)).sum(-1)
    expected = 1 - cosine.mean() + 0.7 * (z - codes[ids]).square().mean()
    assert abs(logged['loss'] - expected) < 1e-12
    assert abs(logged['cosine'] - cosine.mean()) < 1e-12
    assert logged['codes_used'] == len(ids.unique())
    shares = torch.bincount(ids.flatten()).double() / ids.numel()
    assert logged['perplexity'] == pytest.approx(math.exp(torch.special.entr(shares).sum()))


def test_gradients_pass_the_quantization_and_never_reach_codes_or_teacher(teacher):
    model, images = make(teacher), make_images()
    model.teacher.module.double()
    model(images, mode='loss')['loss'].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert 'codebook.codes' in dict(model.named_buffers())
    assert not any(p.requires_grad for p in model.teacher.module.parameters())
    assert not any('teacher' in key for key in model.state_dict())
    assert not model.train().teacher.module.training


def test_codes_move_toward_the_mean_of_their_features_and_idle_codes_stay():
    torch.manual_seed(0)
    book = CosineCodebook(5, 3, decay=0.9).double()
    before = book.codes.clone()
    features = F.normalize(torch.randn(40, 3, dtype=torch.float64), dim=1)
    ids = torch.randint(0, 4, (40,))
    counts = book.update(features, ids)
    assert counts.tolist() == [*torch.bincount(ids, minlength=5).tolist()]
    for code in range(4):
        mean = F.normalize(features[ids == code].mean(0), dim=0)
        expected = F.normalize(0.9 * before[code] + 0.1 * mean, dim=0)
        torch.testing.assert_close(book.codes[code], expected, rtol=0, atol=1e-15)
    assert torch.equal(book.codes[4], before[4])


def test_codes_start_at_the_clusters_of_the_features():
    torch.manual_seed(0)
    centers = F.normalize(torch.randn(12, 8, dtype=torch.float64), dim=1)
    noise = 0.01 * torch.randn(600, 8, dtype=torch.float64)
    features = F.normalize(centers.repeat(50, 1) + noise, dim=1)
    book = CosineCodebook(12, 8, decay=0.99).double()
    book.start(features)
    nearest = (centers @ book.codes.T).max(1)
    assert len(nearest.indices.unique()) == 12 and nearest.values.min() > 0.999
    similarity = (features * book(book.nearest(features))).sum(1)
    assert similarity.min() > 0.99


def test_training_from_k_means_raises_the_cosine_and_uses_the_codes(teacher):
    model = make(teacher, encoder=dict(ENCODER, patch_embed_std=0.2)).float()
    colors = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(colors, scale_factor=8) * 0.8 + make_images(32).float() * 0.2
    model.init_weights()
    model.init_codebook(images)
    assert len(model.tokens(images).unique()) == 24
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    logs = []
    for _ in range(40):
        optimizer.zero_grad()
        logged = model(images, mode='loss')
        logged['loss'].backward()
        optimizer.step()
        logs.append({name: float(value) for name, value in logged.items()})
    assert logs[0]['cosine'] < 0 and logs[-1]['cosine'] > 0.9
    assert min(log['codes_used'] for log in logs) >= 18
    lengths = model.codebook.codes.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(24), rtol=0, atol=1e-5)


def test_more_codes_than_patches_is_an_error_that_says_how_many_images(teacher):
    model = make(teacher, vocab_size=70)
    with pytest.raises(
        ValueError, match='70 codes cannot start from 64 patches of 4 images: .* 5,'
    ):
        model.init_codebook(make_images())


def test_validation_does_not_move_the_codes(teacher):
    model, images = make(teacher).float().eval(), make_images().float()
    before = model.codebook.codes.clone()
    with torch.no_grad():
        model(images, mode='loss')
    samples = model(images, mode='predict')
    assert torch.equal(model.codebook.codes, before)
    assert torch.equal(torch.stack([sample.ids for sample in samples]), model.tokens(images))
    logged = model(images, mode='loss')
    mean = torch.stack([sample.cosine for sample in samples]).mean()
    torch.testing.assert_close(mean, logged['cosine'])
    ids, similarity = model.match(images)
    z = model.encode(images)
    assert torch.equal(ids, model.tokens(images))
    torch.testing.assert_close(similarity, (z @ model.codebook.codes.T).amax(-1))


def test_half_precision_keeps_codes_and_scores_in_float32(teacher):
    model, images = make(teacher).float(), make_images(8).float()
    exact = model.tokens(images)
    with torch.autocast('cpu', torch.bfloat16):
        logged = model(images, mode='loss')
        vectors = model.encode(images)
        ids = model.tokens(images)
    assert vectors.dtype == model.codebook.codes.dtype == torch.float32
    assert logged['loss'].dtype == torch.float32
    assert torch.equal(ids, model.codebook.nearest(vectors))
    assert (ids == exact).float().mean() > 0.8


# -- teachers


def test_without_weights_of_the_teacher_nothing_is_trained(teacher, tmp_path):
    model = make(teacher | dict(checkpoint=None)).float()
    for call in (model.init_weights, lambda: model(make_images().float(), mode='loss')):
        with pytest.raises(FileNotFoundError, match=r'teacher \(BEiT\) has no weights.*docs/tok'):
            call()
    model = make(teacher | dict(checkpoint=f'{tmp_path}/gone.pth')).float()
    with pytest.raises(FileNotFoundError, match=r'gone\.pth'):
        model.init_weights()
    with pytest.raises(ValueError, match='VQKD has no teacher'):
        make(None).float()(make_images().float(), mode='loss')


def test_a_teacher_that_does_not_fit_is_found_before_training(teacher):
    model = make(teacher | dict(channels=20)).float()
    with pytest.raises(ValueError, match='returns 24 channels, model.teacher.channels is 20'):
        model.init_weights()
    pooled = teacher['backbone'] | dict(out_type='cls_token')
    model = make(teacher | dict(backbone=pooled)).float()
    with pytest.raises(ValueError, match=r'features of shape \(1, 24\).*cannot be resized'):
        model.init_weights()


TIMM = dict(
    type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64,
    embed_dim=24, depth=2, num_heads=2,
)  # fmt: skip
MMPRETRAIN = dict(
    type='mmpretrain.VisionTransformer', img_size=64, patch_size=16, out_type='featmap',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
)  # fmt: skip


def save_random(module: torch.nn.Module, path, prefix: str = '') -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    state = {k: 0.3 * torch.randn_like(v) for k, v in module.state_dict().items()}
    torch.save({prefix + key: value for key, value in state.items()}, path)
    return state


def expected_patches(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the features of the patches by the library's own code."""
    if hasattr(network, 'timm_model'):
        found = network.timm_model.forward_features(images)
        return found[:, 1:].transpose(1, 2).unflatten(-1, (4, 4))
    return network(images)[0]


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('backbone', [TIMM, MMPRETRAIN], ids=['timm', 'mmpretrain'])
def test_backbones_of_other_libraries_teach_with_their_weights(backbone, prefix, tmp_path):
    settings = dict(backbone=backbone, channels=24, checkpoint=str(tmp_path / 'a.pth'))
    source = Teacher(**settings, **NORMALIZATION)
    inner = getattr(source.module, 'timm_model', source.module)
    save_random(inner, tmp_path / 'a.pth', prefix)
    teacher = Teacher(**settings, **NORMALIZATION)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = teacher(images, (4, 4))
    inner.load_state_dict({k: v for k, v in teacher_state(tmp_path / 'a.pth', prefix).items()})
    mean, std = (torch.tensor(NORMALIZATION[k]).view(3, 1, 1) for k in ('mean', 'std'))
    expected = expected_patches(source.module, (255 * images - mean) / std)
    torch.testing.assert_close(found, expected)
    resized = teacher(images, (8, 8))
    expected = F.interpolate(expected, (8, 8), mode='bilinear', align_corners=False)
    torch.testing.assert_close(resized, expected)
    state = torch.load(tmp_path / 'a.pth')
    state.pop(next(key for key in state if 'qkv' in key))
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='Missing: .*qkv'):
        Teacher(**settings, **NORMALIZATION)(images, (4, 4))


def teacher_state(path, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in torch.load(path).items()}
