"""The floor of a data set: what patches tell that never see each other."""

import torch

from beit_mm.models.patchwise import PatchwiseBEiT

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)


def test_another_patch_changes_its_own_feature_and_no_other_also_when_trained():
    torch.manual_seed(0)
    model = PatchwiseBEiT(
        arch=ARCH, img_size=32, patch_size=8, rel_pos_bias='per_layer', out_type='featmap'
    )
    model.init_weights()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
        optimizer.step()
    image = torch.randn(1, 3, 32, 32)
    other = image.clone()
    other[..., 8:16, 16:24] += 1
    changed = (model(image)[0] != model(other)[0]).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]
