"""The same numbers as the libraries that have a BEiT, whose random weights come in through our door and go out again.

Width is the real one, depth is cut; f32 to 1e-5 and f64 to 1e-10 of the largest value, after each block and at the end.
Each case prints what it found (`pytest -s`), and where it fails the difference after each block.
"""

from contextlib import contextmanager

import pytest
import torch
from conversion.libraries import library_model, our_model
from torch import nn

from beit_mm.checkpoint import load, read_checkpoint
from beit_mm.checkpoint.export import export
from beit_mm.checkpoint.fit import fit_backbone
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.origins import to_ours
from beit_mm.checkpoint.report import KeyReport
from beit_mm.models import BEiT

BASE = dict(embed_dims=768, num_layers=2, num_heads=12, feedforward_channels=3072)
LARGE = dict(embed_dims=1024, num_layers=2, num_heads=16, feedforward_channels=4096)
BLOCKS = (
    'Block',
    'BeitLayer',
    'BEiTTransformerEncoderLayer',
)  # ours and timm's, Hugging Face's, OpenMMLab's
# Hugging Face's decoder is as wide as its backbone, and at 768 takes all the time.
SMALL = dict(hidden_size=128, num_hidden_layers=5, num_attention_heads=2, intermediate_size=256)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@contextmanager
def outputs_of_blocks():
    seen = []

    def note(module, inputs, output):
        if type(module).__name__ in BLOCKS:
            seen.append(output[0] if isinstance(output, tuple) else output)

    handle = nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def compare(
    case: str, make_ours, make_theirs, img_size: int, dtypes=(torch.float32, torch.float64)
) -> None:
    """`make_…(dtype)` → a Peer. Both see the same two images and masks."""
    found = {}
    for dtype in dtypes:
        generator = torch.Generator().manual_seed(1)
        image = torch.randn(2, 3, img_size, img_size, generator=generator, dtype=torch.float64).to(
            dtype
        )
        mask = torch.rand(2, img_size // 16, img_size // 16, generator=generator) < 0.4
        with outputs_of_blocks() as own:
            a = make_ours(dtype)(image, mask)
        with outputs_of_blocks() as other:
            b = make_theirs(dtype)(image, mask)
        assert a.shape == b.shape and b.std() > 1e-3
        blocks = [
            relative(x, y) for x, y in zip(own, other, strict=False)
        ]  # Hugging Face may have one more, idle
        assert len(blocks) == len(own) > 1
        found[dtype] = relative(a, b)
        if max(found[dtype], *blocks) > TOLERANCE[dtype]:
            each = ', '.join(f'block {i}: {difference:.1e}' for i, difference in enumerate(blocks))
            pytest.fail(f'{case}, {dtype}: {found[dtype]:.1e} of the largest output; {each}')
    print(f'\n{case:56}' + '  '.join(f'{str(k)[6:]} {v:.1e}' for k, v in found.items()), end='')


def resized(state: dict, img_size: int) -> dict:
    """The state dict with the positions that our loader gives it for another image size."""
    model = BEiT(**infer_spec(state).backbone_settings() | dict(img_size=img_size))
    backbone = {
        k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')
    }
    fitted = fit_backbone(backbone, model, KeyReport(''))
    return state | {f'backbone.{k}': v for k, v in fitted.items()}


# -- theirs come in --------------------------------------------------------------------------------------------------------


def hugging_face(kind: str, randomize, tmp_path, img_size=224, **settings):
    import transformers

    size = dict(
        hidden_size=768, num_hidden_layers=2, num_attention_heads=12, intermediate_size=3072
    )
    config = transformers.BeitConfig(
        **size | settings, image_size=img_size, layer_norm_eps=1e-6, vocab_size=50
    )
    model = randomize(getattr(transformers, kind)(config)).eval()
    model.save_pretrained(tmp_path)
    return model


HF = {
    'HF masked image modeling, shared bias': (
        'BeitForMaskedImageModeling', dict(use_mask_token=True, use_shared_relative_position_bias=True)),
    'HF masked image modeling, absolute positions': (
        'BeitForMaskedImageModeling',
        dict(use_mask_token=True, use_absolute_position_embeddings=True, layer_scale_init_value=0.0)),
    'HF classification, mean of patches': (
        'BeitForImageClassification', dict(use_relative_position_bias=True, num_labels=30)),
    'HF classification, [S]': (
        'BeitForImageClassification', dict(use_relative_position_bias=True, use_mean_pooling=False, num_labels=30)),
    'HF backbone, absolute positions': (
        'BeitModel', dict(use_absolute_position_embeddings=True, use_mean_pooling=False)),
    'HF UPerNet': (
        'BeitForSemanticSegmentation',
        dict(use_relative_position_bias=True, out_indices=[2, 3, 4, 5], num_labels=15, **SMALL)),
}  # fmt: skip


@pytest.mark.any_stack
@pytest.mark.parametrize('case', HF)
def test_hugging_face(case, randomize, tmp_path):
    kind, settings = HF[case]
    hugging_face(kind, randomize, tmp_path, **settings)
    checkpoint = read_checkpoint(str(tmp_path))
    state = checkpoint.state
    origin = checkpoint.origin
    meta = checkpoint.meta
    assert origin == 'hf'
    facts = infer_spec(state)
    compare(
        f'{case}, 224',
        lambda dtype: our_model(state, dtype, meta.get('out_indices')),
        lambda dtype: library_model('hf', tmp_path, facts, dtype),
        224,
    )
    if kind == 'BeitForSemanticSegmentation':
        assert meta['out_indices'] == [
            0,
            1,
            2,
            3,
        ]  # not 1, 2, 3, 4 as the official code would take these numbers for


@pytest.mark.any_stack
@pytest.mark.parametrize('case', [*list(HF)[:3], 'HF UPerNet'])
def test_hugging_face_at_384_with_the_positions_that_we_resized(case, randomize, tmp_path):
    kind, settings = HF[case]
    hugging_face(kind, randomize, tmp_path / 'theirs', **settings)
    state = resized(load(str(tmp_path / 'theirs'))[0], 384)
    facts, _ = export(state, 'hf', tmp_path / 'out', {}, True)
    assert facts.grid == (24, 24)
    compare(
        f'{case}, 224 → 384',
        lambda dtype: our_model(state, dtype),
        lambda dtype: library_model('hf', tmp_path / 'out', facts, dtype),
        384,
        (torch.float64,),
    )


@pytest.mark.any_stack
def test_gradients_of_masked_image_modeling_are_hugging_faces(randomize, tmp_path):
    """Of every parameter, by the loss over the hidden patches alone, with the last block computed only there."""
    from beit_mm.models import MIMHead
    from beit_mm.models.pretrainer import select_masked_patches

    kind, settings = HF['HF masked image modeling, shared bias']
    theirs = hugging_face(kind, randomize, tmp_path, **settings).double()
    state = load(str(tmp_path))[0]
    backbone, head = (
        BEiT(**infer_spec(state).backbone_settings()).double(),
        MIMHead(768, 50).double(),
    )
    backbone.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith('backbone.')})
    head.load_state_dict(
        {k[5:]: v for k, v in state.items() if k.startswith('head.')}, strict=False
    )
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 224, 224, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 14, 14, generator=generator) < 0.35
    ids = torch.randint(50, (2, 196), generator=generator)

    index, valid = select_masked_patches(mask, 100)
    loss = head.loss(backbone(image, mask, index)[0], ids.gather(1, index), valid)['loss']
    loss.backward()
    other = theirs(image, bool_masked_pos=mask.flatten(1), labels=ids[mask.flatten(1)]).loss
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-12)
    expected = to_ours({name: p.grad for name, p in theirs.named_parameters()}, 'hf')[0]
    own = {f'backbone.{k}': p.grad for k, p in backbone.named_parameters()}
    own |= {f'head.{k}': p.grad for k, p in head.named_parameters()}
    assert own.keys() == expected.keys()
    worst = max(relative(own[k], expected[k]) for k in own)
    assert worst < 1e-5
    print(
        f'\nHF gradients of {len(own)} parameters, largest difference float64 {worst:.1e}', end=''
    )


@pytest.mark.any_stack
@pytest.mark.parametrize(
    ('name', 'arch', 'img_size'), [('base', BASE, 224), ('large', LARGE, 224), ('base', BASE, 384)]
)
@pytest.mark.parametrize('head', ['logits', 'features'])
def test_timm(name, arch, img_size, head, randomize, tmp_path):
    from timm.models.beit import Beit

    theirs = Beit(
        num_classes=30,
        embed_dim=arch['embed_dims'],
        depth=arch['num_layers'],
        num_heads=arch['num_heads'],
        init_values=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        global_pool='avg' if head == 'logits' else 'token',
    )
    torch.save(randomize(theirs).state_dict(), tmp_path / 'timm.pth')
    state, origin = load(str(tmp_path / 'timm.pth'))
    assert origin == 'timm'
    if head == 'features':
        state = {k: v for k, v in state.items() if k.startswith('backbone.')}
    path = tmp_path / 'timm.pth'
    if img_size != 224 or head == 'features':
        state, path = resized(state, img_size), tmp_path / 'out.pth'
        export(state, 'timm', path, {}, False)
    facts = infer_spec(state)
    compare(
        f'timm {name}, {head}, {img_size}',
        lambda dtype: our_model(state, dtype),
        lambda dtype: library_model('timm', path, facts, dtype),
        img_size,
        tuple(TOLERANCE) if img_size == 224 and name == 'base' else (torch.float64,),
    )


@pytest.mark.parametrize(
    'kind', ['mim', 'vanilla_mim', 'classifier', 'cls_token_classifier', 'backbone']
)
def test_mmpretrain(kind, make_state, tmp_path):
    """Drop path differs in training, see test_faults_of_peers.py."""
    state = make_state(kind, arch=BASE, img_size=224)
    facts, _ = export(state, 'mmpretrain', tmp_path / 'a.pth', {}, False)
    found, origin = load(str(tmp_path / 'a.pth'))
    assert origin == 'mmpretrain'
    compare(
        f'mmpretrain {kind}, 224',
        lambda dtype: our_model(found, dtype),
        lambda dtype: library_model('mmpretrain', tmp_path / 'a.pth', facts, dtype),
        224,
    )


@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_mmseg(kind, make_state, tmp_path):
    small = dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=256)
    state = make_state(kind, arch=small if kind == 'segmentor' else BASE, img_size=224)
    if kind == 'classifier':
        state = {k: v for k, v in state.items() if k.startswith('backbone.')}
    facts, _ = export(state, 'mmseg', tmp_path / 'a.pth', {}, False)
    found = load(str(tmp_path / 'a.pth'))[0]
    compare(
        f'mmseg {"backbone" if kind == "classifier" else "UPerNet"}, 224',
        lambda dtype: our_model(found, dtype),
        lambda dtype: library_model('mmseg', tmp_path / 'a.pth', facts, dtype),
        224,
    )


def test_mmpretrains_dalle_encoder(make_state, tmp_path):
    state = make_state('tokenizer')
    facts, _ = export(state, 'mmpretrain', tmp_path / 'dalle_encoder.pth', {}, False)
    theirs = library_model('mmpretrain', tmp_path / 'dalle_encoder.pth', facts)
    image = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        a, b = (
            our_model(load(str(tmp_path / 'dalle_encoder.pth'))[0])(image, None),
            theirs(image, None),
        )
    assert relative(a, b) < 1e-6 and torch.equal(a.argmax(1), b.argmax(1))
