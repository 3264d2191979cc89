"""Masked image modeling: the model sees what it may, is scored where it must be, and never touches its tokenizer."""

import pytest
import torch
import torch.nn.functional as F

from beit_mm.engine import MIMMetric
from beit_mm.models import BEiTPretrainer, DiscreteVAE, MIMDataPreprocessor
from beit_mm.models.pretrainer import select_masked_patches

K, BUDGET = 16, 6
VAE = dict(vocab_size=K, width=8, groups=2, blocks=1, width_in=4)  # stride 2
ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)


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
    """In f64, with weights drawn away from their special initial values."""
    torch.manual_seed(0)
    target = target or dict(
        type='TokenTarget', tokenizer=dict(type='DiscreteVAE', **VAE), checkpoint=checkpoint
    )
    model = BEiTPretrainer(
        backbone=dict(
            type='BEiT',
            arch=ARCH,
            img_size=32,
            patch_size=8,
            mask_token=True,
            rel_pos_bias='shared',
        ),
        target=target | dict(recover=recover),
        head=dict(
            type='MIMHead',
            in_channels=32,
            out_channels=192 if target['type'] == 'PixelTarget' else K,
        ),
        num_masked=BUDGET,
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double()


def batch(ids: bool = True) -> dict[str, torch.Tensor]:
    """Two images on a 4×4 grid, six and four patches hidden."""
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1:3, :3], mask[1, :2, 2:] = True, True
    patch_view = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=rng)
    if ids:
        return dict(
            patch_view=patch_view, mask=mask, token_ids=torch.randint(K, (2, 4, 4), generator=rng)
        )
    return dict(patch_view=patch_view, mask=mask, token_view=torch.rand(2, 3, 8, 8, generator=rng))


def pixels_of(mask: torch.Tensor) -> torch.Tensor:
    return mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]


# -- what is seen and what is scored -----------------------------------------------------------------------------------


@pytest.mark.parametrize('recover', ['masked', 'all'])
def test_pixels_under_the_mask_change_no_logit_and_no_loss(recover):
    model, inputs = make(recover=recover), batch()
    noise = torch.randn_like(inputs['patch_view'])
    hidden = pixels_of(inputs['mask'])
    other = inputs | dict(patch_view=torch.where(hidden, noise, inputs['patch_view']))
    logits = [model.head(model._read(x)[0]) for x in (inputs, other)]
    assert torch.equal(*logits)
    assert torch.equal(model.loss(inputs)['loss'], model.loss(other)['loss'])
    shown = inputs | dict(patch_view=torch.where(hidden, inputs['patch_view'], noise))
    assert (model.head(model._read(shown)[0]) - logits[0]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize('recover', ['masked', 'all'])
def test_the_token_at_a_shown_position_counts_only_when_all_are_recovered(recover):
    model, inputs = make(recover=recover), batch()
    for row, column in ((0, 0), (3, 3), (0, 1)):  # shown in both images
        ids = inputs['token_ids'].clone()
        ids[:, row, column] = (ids[:, row, column] + 1) % K
        losses = [
            model.loss(inputs | dict(token_ids=t))['loss'].item()
            for t in (inputs['token_ids'], ids)
        ]
        assert (losses[0] == losses[1]) is (recover == 'masked')
    ids = inputs['token_ids'].clone()
    ids[0, 1, 1] = (ids[0, 1, 1] + 1) % K  # hidden
    assert model.loss(inputs | dict(token_ids=ids))['loss'] != model.loss(inputs)['loss']


@pytest.mark.parametrize('recover', ['masked', 'all'])
def test_the_loss_is_the_cross_entropy_of_eq_1(recover):
    """Spelled out with the whole sequence and boolean indexing."""
    model, inputs = make(recover=recover), batch()
    (sequence,) = model.backbone(inputs['patch_view'], inputs['mask'])
    where = (
        inputs['mask'].flatten(1) if recover == 'masked' else torch.ones(2, 16, dtype=torch.bool)
    )
    expected = F.cross_entropy(
        model.head(sequence[:, 1:][where]), inputs['token_ids'].flatten(1)[where]
    )
    assert model.loss(inputs)['loss'].item() == pytest.approx(expected.item(), rel=1e-6)


def test_pixels_are_predicted_at_the_hidden_patches():
    model = make(target=dict(type='PixelTarget', patch_size=8))
    inputs = batch()
    (sequence,) = model.backbone(inputs['patch_view'], inputs['mask'])
    where = inputs['mask'].flatten(1)
    expected = F.mse_loss(
        model.head(sequence[:, 1:][where]), model.target(inputs).flatten(1, 2)[where]
    )
    assert model.loss(inputs)['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    mse = torch.cat([sample.mse[sample.hidden] for sample in model.predict(inputs)])
    assert mse.mean().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize('hidden', [False, True])
def test_the_mask_token_gets_a_gradient_only_if_something_is_hidden(hidden):
    model, inputs = make(recover='all'), batch()
    model.loss(inputs | dict(mask=inputs['mask'] & hidden))['loss'].backward()
    assert bool(model.backbone.mask_token.grad.abs().sum() > 0) is hidden


def test_nothing_hidden_and_nothing_to_recover_is_a_loss_of_zero():
    model, inputs = make(), batch()
    loss = model.loss(inputs | dict(mask=torch.zeros(2, 4, 4, dtype=torch.bool)))['loss']
    loss.backward()
    assert loss == 0 and all(
        p.grad is not None and p.grad.abs().max() == 0 for p in model.parameters()
    )


def test_without_a_mask_all_tokens_are_recovered_from_the_whole_image():
    """Table 4's `− masking, recover 100 %`."""
    model, inputs = make(recover='all'), batch()
    bare = {k: v for k, v in inputs.items() if k != 'mask'}
    (sequence,) = model.backbone(inputs['patch_view'])
    expected = F.cross_entropy(
        model.head(sequence[:, 1:]).flatten(0, 1), inputs['token_ids'].flatten()
    )
    assert model.loss(bare)['loss'].item() == pytest.approx(expected.item(), rel=1e-6)


def test_every_parameter_learns():
    model = make()
    model.loss(batch())['loss'].backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0
    ] == []


# -- the tokenizer stays what it is ------------------------------------------------------------------------------------


def test_the_tokenizer_gets_no_gradient_stays_in_eval_mode_and_is_not_saved(tokenizer):
    model = make(tokenizer).float().train()
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in batch(ids=False).items()}
    before = {k: v.clone() for k, v in model.target.tokenizer.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model.loss(inputs)['loss'].backward()
    optimizer.step()
    own = model.target.tokenizer
    assert not own.training and not any(m.training for m in own.modules())
    assert all(p.grad is None and not p.requires_grad for p in own.parameters())
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
    names = {n.split('.')[0] for n in model.state_dict()} | {
        n.split('.')[0] for n, _ in model.named_parameters()
    }
    assert names == {'backbone', 'head', 'target_fingerprint'}


def test_a_checkpoint_tells_whose_tokens_it_learned(tokenizer):
    model = make(tokenizer)
    model.init_weights()
    assert model.state_dict()['target_fingerprint'] == model.target.fingerprint() != 0


def test_without_a_tokenizer_a_model_builds_but_does_not_start_to_train():
    model = make()
    with pytest.raises(FileNotFoundError, match='tools/train.py configs/tokenizer'):
        model.init_weights()


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('budget', [0, 1, 5, 9, 12])
def test_select_masked_patches_are_exactly_the_hidden_ones_in_a_static_shape(budget):
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(4, 12, dtype=torch.bool)
    for row, n in zip(mask, (0, budget // 2, max(budget - 1, 0), budget), strict=True):
        row[torch.randperm(12, generator=rng)[:n]] = True
    index, valid = select_masked_patches(mask.unflatten(1, (3, 4)), budget)
    assert index.shape == valid.shape == (4, budget) and index.dtype == torch.int64
    for row, places, counts in zip(mask, index, valid, strict=True):
        assert sorted(places[counts].tolist()) == row.nonzero().flatten().tolist()
        assert not row[places[~counts]].any() and len(set(places.tolist())) == budget
    assert select_masked_patches(mask[:0].unflatten(1, (3, 4)), budget)[0].shape == (0, budget)


def test_more_hidden_patches_than_the_budget_are_an_error():
    with pytest.raises(
        ValueError, match=r'a mask hides 6 patches, the model reads num_masked=5.*same num_masked'
    ):
        select_masked_patches(batch()['mask'], 5)
    with pytest.raises(ValueError, match=r'num_masked=17 is more than the 16 patches'):
        select_masked_patches(batch()['mask'], 17)


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_predict_gives_both_terms_of_eq_3_in_nats_an_image(tokenizer):
    model = make(tokenizer).float()
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in batch(ids=False).items()}
    dvae = model.target.tokenizer
    ids = dvae.tokens(inputs['token_view'])
    (sequence,) = model.backbone(inputs['patch_view'], inputs['mask'])
    log_p = model.head(sequence[:, 1:]).log_softmax(-1)
    pixel_term = dvae.log_likelihood(dvae.decode_maps(ids), inputs['token_view']).sum((1, 2, 3))
    loss = model.loss(inputs)['loss'].item()
    samples = model.predict(inputs)
    for i, sample in enumerate(samples):
        hidden = inputs['mask'][i].flatten()
        own = ids[i].flatten()[hidden]
        expected = log_p[i][hidden].gather(1, own[:, None]).sum()
        assert sample.log_p_tokens[sample.hidden].sum().item() == pytest.approx(
            expected.item(), rel=1e-4
        )
        assert sample.log_likelihood.item() == pytest.approx(pixel_term[i].item(), rel=1e-5)
        assert sample.patch_ids[sample.valid].tolist() == hidden.nonzero().flatten().tolist()
        assert torch.equal(sample.target[sample.valid], own)
        assert torch.equal(sample.prediction[sample.valid], log_p[i][hidden].argmax(-1))
    token_terms = [sample.log_p_tokens[sample.hidden].sum().item() for sample in samples]
    assert loss == pytest.approx(-sum(token_terms) / 10, rel=1e-4)  # 10 are hidden


@pytest.mark.parametrize(
    'target', [None, dict(type='PixelTarget', patch_size=8)], ids=['tokens', 'pixels']
)
def test_figures_of_models_that_recover_all_are_comparable_with_those_that_recover_the_hidden(
    target,
):
    """The same network, asked for more places."""
    figures, logged = {}, {}
    for recover in ('masked', 'all'):
        model, metric = make(recover=recover, target=target).eval(), MIMMetric()
        metric.process({}, [sample.to_dict() for sample in model.predict(batch())])
        figures[recover], logged[recover] = (
            metric.compute_metrics(metric.results),
            model.loss(batch()),
        )
    everywhere = {name for name in figures['all'] if name.endswith('_all')}
    assert {
        name: figures['all'][name] for name in figures['all'].keys() - everywhere
    } == pytest.approx(figures['masked'])
    assert figures['all']['val_loss_all'] != pytest.approx(figures['masked']['val_loss'], rel=1e-3)
    if target is None:
        assert everywhere == {
            'val_loss_all',
            'accuracy_all',
            'marginal_entropy_all',
            'marginal_accuracy_all',
        }
        assert figures['all']['val_loss_all'] == pytest.approx(logged['all']['loss'].item())
        for recover, found in logged.items():
            assert found['masked_accuracy'].item() == pytest.approx(
                figures[recover]['masked_accuracy']
            )
        assert logged['all']['accuracy_all'].item() == pytest.approx(figures['all']['accuracy_all'])
        assert 'accuracy_all' not in logged['masked']


def test_where_nothing_is_hidden_no_figure_is_called_masked():
    model, metric = make(recover='all'), MIMMetric()
    inputs = {name: value for name, value in batch().items() if name != 'mask'}
    metric.process({}, [sample.to_dict() for sample in model.predict(inputs)])
    assert all(name.endswith('_all') for name in metric.compute_metrics(metric.results))
    assert set(model.loss(inputs)) == {'loss', 'token_entropy', 'accuracy_all'}


def test_cached_ids_give_the_token_term_alone():
    assert 'log_likelihood' not in make().predict(batch())[0]


# -- normalisation -----------------------------------------------------------------------------------------------------


def test_views_are_normalised_on_the_device():
    rng = torch.Generator().manual_seed(0)
    views = dict(patch_view=torch.randint(256, (2, 3, 8, 8), generator=rng, dtype=torch.uint8))
    views['token_view'] = torch.randint(256, (2, 3, 4, 4), generator=rng, dtype=torch.uint8)
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    out = MIMDataPreprocessor()(dict(inputs=views | dict(mask=mask)))['inputs']
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (views['patch_view'][:, channel] / 255 - mean) / std
        torch.testing.assert_close(out['patch_view'][:, channel], expected, rtol=1e-4, atol=1e-5)
    assert (
        torch.equal(out['token_view'], views['token_view'].float() / 255)
        and out['token_view'].max() <= 1
    )
    assert out['mask'] is mask and views['patch_view'].dtype == torch.uint8


@pytest.mark.parametrize('name', ['patch_view', 'token_view'])
def test_views_that_are_not_uint8_are_refused(name):
    views = dict.fromkeys(('patch_view', 'token_view'), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    views[name] = views[name].float()
    with pytest.raises(ValueError, match=f'{name} is torch.float32: expected uint8'):
        MIMDataPreprocessor()(dict(inputs=views))


def test_the_three_modes_are_the_three_methods():
    model, inputs = make(), batch()
    assert torch.equal(model(inputs, mode='loss')['loss'], model.loss(inputs)['loss'])
    assert (model(inputs, mode='predict')[0].log_p_tokens < 0).all()
    assert torch.equal(model(inputs)[0], model.backbone(inputs['patch_view'], inputs['mask'])[0])
