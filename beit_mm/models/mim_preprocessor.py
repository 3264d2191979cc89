"""Normalization of the two views of a batch on the device."""

import torch
from mmengine.model import BaseDataPreprocessor

from ..registry import MODELS
from ..utils.arguments import check_mean_and_std, check_tensor


@MODELS.register_module()
class MIMDataPreprocessor(BaseDataPreprocessor):
    """Preprocessor of uint8 views: normalizes `patch_view`, scales `token_view` to [0, 1].

    Args:
        mean, std: one number per channel, on the scale 0 … 255; three channels are RGB.
    """

    def __init__(
        self, mean: tuple = (123.675, 116.28, 103.53), std: tuple = (58.395, 57.12, 57.375)
    ):
        super().__init__(non_blocking=True)
        check_mean_and_std(mean, std)
        self.register_buffer('mean', torch.tensor(mean).float().view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).float().view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        inputs = dict(data['inputs'])
        view = inputs['patch_view']
        check_tensor('patch_view', view, torch.uint8, None, None, None, None)
        if view.size(1) != len(self.mean):
            raise ValueError(
                f'images have {view.size(1)} channels, data_preprocessor has mean and std of '
                f'{len(self.mean)}: set one number per channel, and read other numbers of channels '
                "than 3 with LoadImageFromFile(color_type='unchanged')"
            )
        inputs['patch_view'] = (view.float() - self.mean) / self.std
        if 'token_view' in inputs:
            check_tensor('token_view', inputs['token_view'], torch.uint8, None, None, None, None)
            inputs['token_view'] = inputs['token_view'].float() / 255
        return dict(inputs=inputs, data_samples=data.get('data_samples'))
