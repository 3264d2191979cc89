"""Masked image modeling: what the model sees, where it is scored, and its frozen tokenizer."""

import pytest
import torch
import torch.nn.functional as F
from small import make_pretrainer, randomize

from beit_mm.engine import MIMMetric
from beit_mm.models import BEiTPretrainer, DiscreteVAE
from beit_mm.models.pretrainer import select_masked_patches

K, NUM_MASKED = 16, 6
VAE = dict(vocab_size=K, width=8, groups=2, blocks=1, width_in=4)  # stride 2
PIXELS = dict(type='PixelTarget', patch_size=8)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory) -> str:
    torch.manual_seed(0)
    model = DiscreteVAE(**VAE)
    model.init_codebook(torch.rand(16, 3, 8, 8))
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


def make(
    checkpoint: str | None = None, recover: str = 'masked', target: dict | None = None
) -> BEiTPretrainer:
    """Return a model in float64, whose parameters are random instead of their initial values."""
    torch.manual_seed(0)
    channels = K if target is None else 192
    if target is None:
        vae = dict(type='DiscreteVAE', **VAE)
        target = dict(type='TokenTarget', tokenizer=vae, checkpoint=checkpoint)
    target = target | dict(recover=recover)
    model = make_pretrainer(target, channels, NUM_MASKED, rel_pos_bias='shared')
    return randomize(model).double()


def batch(**view: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return two images of a 4×4 grid with six and four masked patches; ids unless a view is given."""
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1:3, :3] = True
    mask[1, :2, 2:] = True
    patch_view = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=rng)
    ids = torch.randint(K, (2, 4, 4), generator=rng)
    return dict(patch_view=patch_view, mask=mask, **view or dict(token_ids=ids))


def float_batch() -> dict[str, torch.Tensor]:
    """Return a batch in float32 with a token view."""
    view = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    inputs = batch(token_view=view)
    return inputs | dict(patch_view=inputs['patch_view'].float())


def test_masked_pixels_change_no_loss_and_visible_pixels_do():
    model, inputs = make(), batch()
    noise = torch.randn_like(inputs['patch_view'])
    is_masked = inputs['mask'].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    masked_changed = inputs | dict(patch_view=torch.where(is_masked, noise, inputs['patch_view']))
    visible_changed = inputs | dict(patch_view=torch.where(is_masked, inputs['patch_view'], noise))
    loss, same, other = (
        model.loss(changed)['loss'] for changed in (inputs, masked_changed, visible_changed)
    )
    assert torch.equal(same, loss) and (other - loss).abs() > 1e-2


@pytest.mark.parametrize('target', [None, PIXELS], ids=['tokens', 'pixels'])
@pytest.mark.parametrize('recover', ['masked', 'all'])
def test_the_loss_is_that_of_eq_1(recover, target):
    """Spelled out with the full sequence and boolean indexing."""
    model, inputs = make(recover=recover, target=target), batch()
    (sequence,) = model.backbone(inputs['patch_view'], inputs['mask'])
    where = inputs['mask'].flatten(1)
    if recover == 'all':
        where = torch.ones_like(where)
    prediction = model.head(sequence[:, 1:][where])
    criterion = F.cross_entropy if target is None else F.mse_loss
    expected = criterion(prediction, model.target(inputs).flatten(1, 2)[where])
    loss = model.loss(inputs)['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(value, parameters) for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)
    assert all(gradient.any() for gradient in gradients[0])


def test_without_a_mask_all_tokens_are_recovered_from_the_full_image():
    """Table 4: − masking, recover 100 %."""
    model, inputs = make(recover='all'), batch()
    del inputs['mask']
    (sequence,) = model.backbone(inputs['patch_view'])
    logits = model.head(sequence[:, 1:]).flatten(0, 1)
    expected = F.cross_entropy(logits, inputs['token_ids'].flatten())
    logged = model.loss(inputs)
    assert logged['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(logged) == {'loss', 'token_entropy', 'accuracy_all'}
    metric = MIMMetric()
    metric.process({}, [sample.to_dict() for sample in model.predict(inputs)])
    assert all(name.endswith('_all') for name in metric.compute_metrics(metric.results))


def test_the_tokenizer_is_frozen_and_not_saved(tokenizer):
    model = make(tokenizer).float().train()
    model.init_weights()
    own = model.target.tokenizer
    before = {name: value.clone() for name, value in own.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model.loss(float_batch())['loss'].backward()
    optimizer.step()
    assert not any(module.training for module in own.modules())
    assert not any(p.requires_grad for p in own.parameters())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    parts = {name.split('.')[0] for name in model.state_dict()}
    assert parts == {'backbone', 'head', 'target_fingerprint'}
    assert model.state_dict()['target_fingerprint'] == model.target.fingerprint() != 0


@pytest.mark.parametrize('num_masked', [0, 1, 5, 9, 12])
def test_exactly_the_masked_patches_are_selected_in_a_static_shape(num_masked):
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(4, 12, dtype=torch.bool)
    counts = (0, num_masked // 2, max(num_masked - 1, 0), num_masked)
    for row, n in zip(mask, counts, strict=True):
        row[torch.randperm(12, generator=rng)[:n]] = True
    patch_ids, valid = select_masked_patches(mask.unflatten(1, (3, 4)), num_masked)
    assert patch_ids.shape == valid.shape == (4, num_masked) and patch_ids.dtype == torch.int64
    for row, ids, is_valid in zip(mask, patch_ids, valid, strict=True):
        assert sorted(ids[is_valid].tolist()) == row.nonzero().flatten().tolist()
        assert not row[ids[~is_valid]].any() and len(ids.unique()) == num_masked
    empty = mask[:0].unflatten(1, (3, 4))
    assert select_masked_patches(empty, num_masked)[0].shape == (0, num_masked)


def test_predict_returns_both_terms_of_eq_3_in_nats_per_image(tokenizer):
    model, inputs = make(tokenizer).float(), float_batch()
    dvae = model.target.tokenizer
    ids = dvae.tokens(inputs['token_view'])
    (sequence,) = model.backbone(inputs['patch_view'], inputs['mask'])
    log_p = model.head(sequence[:, 1:]).log_softmax(-1)
    log_likelihood = dvae.log_likelihood(dvae.decode_maps(ids), inputs['token_view'])
    token_terms = 0
    for i, sample in enumerate(model.predict(inputs)):
        is_masked = inputs['mask'][i].flatten()
        target = ids[i].flatten()[is_masked]
        token_term = sample.log_p_tokens[sample.hidden].sum().item()
        expected = log_p[i][is_masked].gather(1, target[:, None]).sum().item()
        assert token_term == pytest.approx(expected, rel=1e-4)
        token_terms += token_term
        pixel_term = log_likelihood[i].sum().item()
        assert sample.log_likelihood.item() == pytest.approx(pixel_term, rel=1e-5)
        assert torch.equal(sample.patch_ids[sample.valid], is_masked.nonzero().flatten())
        assert torch.equal(sample.target[sample.valid], target)
        assert torch.equal(sample.prediction[sample.valid], log_p[i][is_masked].argmax(-1))
    assert model.loss(inputs)['loss'].item() == pytest.approx(-token_terms / 10, rel=1e-4)
    assert 'log_likelihood' not in make().predict(batch())[0]  # cached ids have no pixels


@pytest.mark.parametrize('target', [None, PIXELS], ids=['tokens', 'pixels'])
def test_figures_are_comparable_between_models_that_recover_masked_or_all_patches(target):
    figures, logged = {}, {}
    for recover in ('masked', 'all'):
        model, metric = make(recover=recover, target=target).eval(), MIMMetric()
        metric.process({}, [sample.to_dict() for sample in model.predict(batch())])
        figures[recover] = metric.compute_metrics(metric.results)
        logged[recover] = model.loss(batch())
    of_all = {name: value for name, value in figures['all'].items() if name.endswith('_all')}
    of_masked = {name: v for name, v in figures['all'].items() if name not in of_all}
    assert of_masked == pytest.approx(figures['masked'])
    assert of_all['val_loss_all'] != pytest.approx(of_masked['val_loss'], rel=1e-3)
    if target is None:
        assert of_all['val_loss_all'] == pytest.approx(logged['all']['loss'].item())
        assert of_all['accuracy_all'] == pytest.approx(logged['all']['accuracy_all'].item())
        assert 'accuracy_all' not in logged['masked']
        for found in logged.values():
            accuracy = found['masked_accuracy'].item()
            assert accuracy == pytest.approx(of_masked['masked_accuracy'])
