"""VQ-KD has mmpretrain's vectors, ids, losses, gradients and codes; it avoids mmpretrain's faults.

mmpretrain 1.3.6 (its port of the official code) has the encoder and the quantizer only.
"""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.selfsup.beit import VQKD as TheirVQKD
from mmpretrain.models.utils.vector_quantizer import NormEMAVectorQuantizer

from beit_mm.checkpoint.key_names import VQKD_NAMES, rename
from beit_mm.checkpoint.origins import to_ours
from beit_mm.checkpoint.state_dicts import rename_keys
from beit_mm.models import VQKD
from beit_mm.models.cosine_codebook import CosineCodebook

ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=96)


def our_name(key: str) -> str:
    return rename(key, VQKD_NAMES['mmpretrain'])


def pair() -> tuple[VQKD, TheirVQKD]:
    """Return both models with the same random weights and unit codes, in float64."""
    encoder = dict(
        arch=ARCH, img_size=64, patch_size=16, final_norm=True, out_type='featmap', use_abs_pos_emb=True,
        use_rel_pos_bias=False, use_shared_rel_pos_bias=False, layer_scale_init_value=0.0,
    )  # fmt: skip
    theirs = TheirVQKD(encoder, num_embed=40, embed_dims=8, decay=0.9, beta=0.7)
    torch.manual_seed(0)
    for name, tensor in (*theirs.named_parameters(), *theirs.named_buffers()):
        tensor.data.normal_(std=0.3)
        if name == 'quantize.embedding.weight':
            tensor.data.copy_(F.normalize(tensor, dim=1))
    theirs.quantize.embedding.initted.fill_(1)
    ours = VQKD(40, 8, dict(arch=ARCH, img_size=64), beta=0.7, decay=0.9)
    state, skipped = to_ours(theirs.state_dict(), 'mmpretrain')
    assert set(skipped) == {'quantize.embedding.initted', 'quantize.cluster_size'}
    ours.load_state_dict(state)
    # mmpretrain also normalizes the codes that no patch has, so they need the length 1 in float64.
    for codes in (ours.double().codebook.codes, theirs.double().quantize.embedding.weight.data):
        codes.copy_(F.normalize(codes, dim=1))
    return ours, theirs


def make_images(count: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 64, 64, generator=generator, dtype=torch.float64)


def test_vectors_ids_loss_gradients_and_codes_are_mmpretrains():
    ours, theirs = (model.train() for model in pair())
    for step in range(3):
        images = make_images(seed=step)
        quantized, their_ids, their_loss = theirs.encode(2 * images - 1)
        vectors = ours.encode(images)
        ids = ours.codebook.nearest(vectors)
        codes = ours.codebook(ids)
        passed = vectors + (codes - vectors).detach()
        loss = ours.beta * F.mse_loss(vectors, codes)
        assert torch.equal(ids.flatten(), their_ids) and len(ids.unique()) > 5
        assert (passed.movedim(-1, 1) - quantized).abs().max() <= 1e-10
        assert (loss - their_loss).abs() <= 1e-10
        weight = torch.randn(passed.shape, dtype=torch.float64)
        gradients = []
        for model, out, term in (
            (ours, passed.movedim(-1, 1), loss),
            (theirs, quantized, their_loss),
        ):
            model.zero_grad()
            ((out * weight.movedim(-1, 1)).sum() + term).backward()
            found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            gradients.append(found if model is ours else rename_keys(found, our_name))
        assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 30
        for name, gradient in gradients[0].items():
            assert (gradient - gradients[1][name]).abs().max() <= 1e-10, name
        ours.codebook.update(vectors.detach().flatten(0, 2), ids.flatten())
        moved = theirs.quantize.embedding.weight
        assert (ours.codebook.codes - moved).abs().max() <= 1e-10


def test_clusters_from_the_same_start_are_mmpretrains(monkeypatch):
    vectors = F.normalize(torch.randn(300, 8, dtype=torch.float64), dim=1)
    monkeypatch.setattr(
        'mmpretrain.models.utils.vector_quantizer.sample_vectors', lambda x, n: x[:n]
    )
    monkeypatch.setattr(
        'beit_mm.models.cosine_codebook.choose_distant', lambda x, n: (x[:n].clone(), None)
    )
    theirs = NormEMAVectorQuantizer(40, 8, beta=1.0).double()
    theirs.embedding.init_embed_(vectors)
    ours = CosineCodebook(40, 8, decay=0.99).double()
    ours.start(vectors)
    assert (ours.codes - theirs.embedding.weight).abs().max() <= 1e-10


# -- faults of mmpretrain


def test_mmpretrain_starts_the_codes_of_an_untrained_tokenizer_while_it_predicts():
    """Without a checkpoint it gives ids of codes that it takes from the batch; ours refuses."""
    theirs = pair()[1].eval()
    theirs.quantize.embedding.initted.zero_()
    before = theirs.quantize.embedding.weight.clone()
    theirs.get_tokens(2 * make_images() - 1)
    assert not torch.equal(theirs.quantize.embedding.weight, before)


def test_mmpretrain_counts_validation_images_as_training():
    theirs = pair()[1].eval()
    before = theirs.quantize.cluster_size.clone()
    theirs.get_tokens(2 * make_images() - 1)
    assert not torch.equal(theirs.quantize.cluster_size, before)


def test_mmpretrain_takes_square_images_only():
    ours, theirs = pair()
    images = torch.rand(1, 3, 32, 64, dtype=torch.float64)
    assert ours.tokens(images).shape == (1, 2, 4)
    with pytest.raises(Exception, match='h=2, w=2|shape'):
        theirs.encode(images)


def test_mmpretrain_repeats_codes_if_it_has_too_few_patches():
    theirs = NormEMAVectorQuantizer(40, 8, beta=1.0).double()
    theirs.embedding.init_embed_(F.normalize(torch.randn(10, 8, dtype=torch.float64), dim=1))
    assert len(theirs.embedding.weight.round(decimals=6).unique(dim=0)) <= 10
