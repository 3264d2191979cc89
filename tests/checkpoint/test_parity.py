"""Models of the libraries that have a BEiT give the same numbers, with random weights that we read and write.

Width is the real one, depth is cut; f32 to 1e-5 and f64 to 1e-10 of the largest value, after each
block and at the end. Each case prints its differences (`pytest -s`).
"""

from contextlib import contextmanager

import pytest
import torch
from conversion.libraries import library_model, our_model
from small import same_tensors
from torch import nn

from beit_mm.checkpoint import load, read_checkpoint
from beit_mm.checkpoint.export import export_checkpoint
from beit_mm.checkpoint.fit import fit_backbone
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.origins import identify, to_ours
from beit_mm.checkpoint.report import KeyReport
from beit_mm.models import BEiT

BASE = dict(embed_dims=768, num_layers=2, num_heads=12, feedforward_channels=3072)
# Ours and timm's, Hugging Face's two, OpenMMLab's
BLOCKS = 'Block', 'BeitLayer', 'Data2VecVisionLayer', 'BEiTTransformerEncoderLayer'
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
def compare(case, state, library, path, spec=None, img_size=224, tolerance=TOLERANCE, indices=None):
    """Compare our model of `state` with that of a library on the same two images and masks."""
    spec, found = spec or infer_spec(state), {}
    for dtype, limit in tolerance.items():
        generator = torch.Generator().manual_seed(1)
        size = 2, 3, img_size, img_size
        image = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        mask = torch.rand(2, img_size // 16, img_size // 16, generator=generator) < 0.4
        with outputs_of_blocks() as own:
            a = our_model(state, dtype, indices)(image, mask)
        with outputs_of_blocks() as other:
            b = library_model(library, path, spec, dtype)(image, mask)
        assert a.shape == b.shape and b.std() > 1e-3
        # Hugging Face may have one more block, which is idle. Our last block may compute only patches.
        blocks = [relative(x, y[:, -x.size(1) :]) for x, y in zip(own, other, strict=False)]
        assert len(blocks) == len(own) > 1
        found[dtype] = relative(a, b)
        # The sum of two tables is rounded to f32, which the blocks show more than the output.
        if max([found[dtype]] + ([] if 'both tables' in case else blocks)) > limit:
            each = ', '.join(f'block {i}: {difference:.1e}' for i, difference in enumerate(blocks))
            pytest.fail(f'{case}, {dtype}: {found[dtype]:.1e} of the largest output; {each}')
    print(f'\n{case:56}' + '  '.join(f'{str(k)[6:]} {v:.1e}' for k, v in found.items()), end='')


def resized(state: dict, img_size: int) -> dict:
    """Return the state dict with the positions that our loader computes for another image size."""
    model = BEiT(**infer_spec(state).backbone_settings() | dict(img_size=img_size))
    backbone = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    fitted = fit_backbone(backbone, model, KeyReport(''))
    return state | {f'backbone.{k}': v for k, v in fitted.items()}


# -- Hugging Face


def hugging_face(case: str, randomize, path) -> nn.Module:
    """Write the model of a case with random weights to a folder and return it."""
    import transformers

    kind, settings = HF[case]
    config_kind = getattr(transformers, f'{kind.partition("For")[0].removesuffix("Model")}Config')
    config = config_kind(**WIDTH | settings, layer_norm_eps=1e-6, vocab_size=50)
    model = randomize(getattr(transformers, kind)(config)).eval()
    model.save_pretrained(path)
    return model


WIDTH = dict(hidden_size=768, num_hidden_layers=2, num_attention_heads=12, intermediate_size=3072)
# A decoder is as wide as its backbone, and at 768 takes all the time.
SMALL = dict(hidden_size=128, num_hidden_layers=5, num_attention_heads=2, intermediate_size=256)
TINY = SMALL | dict(num_hidden_layers=4, intermediate_size=64, image_size=64)
SHARED, OWN = dict(use_shared_relative_position_bias=True), dict(use_relative_position_bias=True)
ABSOLUTE, MASK = dict(use_absolute_position_embeddings=True), dict(use_mask_token=True)
TOKEN = dict(use_mean_pooling=False)
SEGMENTOR = dict(out_indices=[2, 3, 4, 5], num_hidden_layers=5)
HF = {
    'HF masked image modeling, shared bias': ('BeitForMaskedImageModeling', MASK | SHARED),
    'HF masked image modeling, absolute positions': (
        'BeitForMaskedImageModeling', MASK | ABSOLUTE | dict(layer_scale_init_value=0.0)),
    'HF classification, mean of patches': ('BeitForImageClassification', OWN | dict(num_labels=30)),
    'HF classification, [S]': ('BeitForImageClassification', OWN | TOKEN | dict(num_labels=30)),
    'HF backbone, absolute positions': ('BeitModel', ABSOLUTE | TOKEN),
    'HF UPerNet': ('BeitForSemanticSegmentation', SMALL | OWN | SEGMENTOR | dict(num_labels=15)),
    'data2vec pre-trained': ('Data2VecVisionModel', TINY | SHARED | MASK | TOKEN),
    'data2vec without a norm': ('Data2VecVisionModel', TINY | SHARED | MASK | dict(use_mean_pooling=True)),
    'data2vec classifier': ('Data2VecVisionForImageClassification', TINY | OWN | dict(num_labels=7)),
    'data2vec with both tables': ('Data2VecVisionForImageClassification', TINY | OWN | SHARED | dict(num_labels=7)),
    'data2vec UPerNet': ('Data2VecVisionForSemanticSegmentation', TINY | OWN | SEGMENTOR | dict(num_labels=5)),
    'DiT pre-trained': ('BeitForMaskedImageModeling', TINY | ABSOLUTE | MASK),
    'DiT classifier': ('BeitForImageClassification', TINY | ABSOLUTE | MASK | dict(num_labels=7)),
}  # fmt: skip


@pytest.mark.any_stack
@pytest.mark.parametrize('case', HF)
def test_hugging_face(case, randomize, tmp_path):
    in_memory = hugging_face(case, randomize, tmp_path).state_dict()
    found = read_checkpoint(str(tmp_path))
    assert same_tensors(to_ours(in_memory, identify(in_memory))[0], found.state)
    indices = found.meta.get('out_indices')
    assert found.origin == 'hf'
    # The official code would read blocks 2, 3, 4 and 5 for these numbers.
    assert indices == ([0, 1, 2, 3] if 'UPerNet' in case else None)
    img_size, tolerance = HF[case][1].get('image_size', 224), TOLERANCE
    if img_size == 64:
        tolerance = {torch.float64: 1e-8 if 'both tables' in case else 1e-10}
    name = f'{case}, {img_size}'
    compare(name, found.state, 'hf', tmp_path, None, img_size, tolerance, indices)


@pytest.mark.any_stack
@pytest.mark.parametrize('case', [*list(HF)[:3], 'HF UPerNet'])
def test_hugging_face_at_384_with_the_positions_that_we_resized(case, randomize, tmp_path):
    hugging_face(case, randomize, tmp_path / 'theirs')
    state = resized(load(str(tmp_path / 'theirs'))[0], 384)
    spec, _ = export_checkpoint(state, 'hf', tmp_path / 'out', {}, True)
    assert spec.grid == (24, 24)
    name, path, tolerance = f'{case}, 224 → 384', tmp_path / 'out', {torch.float64: 1e-10}
    compare(name, state, 'hf', path, spec, 384, tolerance)


@pytest.mark.any_stack
def test_gradients_of_masked_image_modeling_are_hugging_faces(randomize, tmp_path):
    """The loss is over the masked patches alone; the last block computes only these."""
    from beit_mm.models import MIMHead
    from beit_mm.models.pretrainer import select_masked_patches

    theirs = hugging_face('HF masked image modeling, shared bias', randomize, tmp_path).double()
    found = read_checkpoint(str(tmp_path))
    backbone = BEiT(**infer_spec(found.state).backbone_settings()).double()
    head = MIMHead(768, 50).double()
    backbone.load_state_dict(found.part('backbone.'))
    head.load_state_dict(found.part('head.'), strict=False)
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


# -- timm, mmpretrain, mmseg


@pytest.mark.any_stack
@pytest.mark.parametrize('head', ['logits', 'features'])
@pytest.mark.parametrize(
    ('name', 'img_size'),
    [
        *((name, 224) for name in ('beit_base', 'beit_large', 'beitv2_base', 'beitv2_large')),
        *((name, 384) for name in ('beit_base', 'beitv2_base', 'beitv2_large')),
    ],
)
def test_timm(name, img_size, head, randomize, tmp_path):
    import timm

    pool = 'avg' if head == 'logits' else 'token'
    theirs = timm.create_model(f'{name}_patch16_224', depth=2, num_classes=30, global_pool=pool)
    path = tmp_path / 'timm.pth'
    torch.save(randomize(theirs).state_dict(), path)
    state, origin = load(str(path))
    assert origin == 'timm'
    if head == 'features':
        state = {k: v for k, v in state.items() if k.startswith('backbone.')}
    if img_size != 224 or head == 'features':
        state, path = resized(state, img_size), tmp_path / 'out.pth'
        export_checkpoint(state, 'timm', path, {}, False)
    is_base = (name, img_size) == ('beit_base', 224)
    tolerance = TOLERANCE if is_base else {torch.float64: 1e-10}
    case = f'timm {name}, {head}, {img_size}'
    compare(case, state, 'timm', path, img_size=img_size, tolerance=tolerance)


@pytest.mark.parametrize(
    ('library', 'kind'),
    [
        *(('mmpretrain', kind) for kind in ('mim', 'vanilla_mim', 'classifier', 'cls_token_classifier', 'backbone')),
        ('mmseg', 'backbone'),
        ('mmseg', 'segmentor'),
    ],
)  # fmt: skip
def test_openmmlab(library, kind, make_state, tmp_path):
    """mmpretrain's drop path differs in training, see test_faults_of_peers.py."""
    small = dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=256)
    made = 'classifier' if (library, kind) == ('mmseg', 'backbone') else kind
    state = make_state(made, arch=small if kind == 'segmentor' else BASE, img_size=224)
    if kind == 'backbone':
        state = {k: v for k, v in state.items() if k.startswith('backbone.')}
    spec, _ = export_checkpoint(state, library, tmp_path / 'a.pth', {}, False)
    found, origin = load(str(tmp_path / 'a.pth'))
    assert origin == ('mmseg' if kind == 'segmentor' else 'mmpretrain')  # same keys
    compare(f'{library} {kind}, 224', found, library, tmp_path / 'a.pth', spec)


def test_mmpretrains_dalle_encoder(make_state, tmp_path):
    path, image = tmp_path / 'dalle_encoder.pth', torch.rand(2, 3, 112, 112)
    spec, _ = export_checkpoint(make_state('tokenizer'), 'mmpretrain', path, {}, False)
    with torch.no_grad():
        a = our_model(load(str(path))[0])(image, None)
        b = library_model('mmpretrain', path, spec)(image, None)
    assert relative(a, b) < 1e-6 and torch.equal(a.argmax(1), b.argmax(1))
