"""Terms of the discrete VAE's objective, and the pixels they are defined for.

A likelihood maps the decoder's output [B, 2·C, H, W] and an image [B, C, H, W] in [0, 1] to
log p(x | z) in nats per subpixel [B, C, H, W].
"""

import math

import torch
from torch import Tensor

from .distributed import mean_over_ranks

# Pixels are mapped into [EPS, 1 − EPS], because the logit-Laplace density diverges at 0 and 1.
EPS = 0.1


def map_pixels(x: Tensor) -> Tensor:
    """Map pixels from [0, 1] to [EPS, 1 − EPS], as the encoder and the likelihoods expect them."""
    return (1 - 2 * EPS) * x + EPS


def unmap_pixels(x: Tensor) -> Tensor:
    """Undo `map_pixels` and clamp to [0, 1]."""
    return ((x - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; keep float32 and float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def logit_laplace(out: Tensor, image: Tensor) -> Tensor:
    """Return the logit-Laplace log-density of the mapped pixels (DALL-E, app. A.3)."""
    mu, log_b = at_least_float32(out).chunk(2, 1)
    x = map_pixels(image)
    log_laplace = -(torch.logit(x) - mu).abs() * torch.exp(-log_b) - log_b - math.log(2)
    return log_laplace - torch.log(x * (1 - x))


def gaussian(out: Tensor, image: Tensor) -> Tensor:
    """Return the log-density of a unit-variance Gaussian: the squared error up to a constant."""
    mean = torch.sigmoid(at_least_float32(out).chunk(2, 1)[0])
    return -0.5 * (mean - map_pixels(image)) ** 2 - 0.5 * math.log(2 * math.pi)


LIKELIHOODS = dict(logit_laplace=logit_laplace, mse=gaussian)


def kl_to_uniform(log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two parts of KL(q(z|x) ‖ uniform) for log q [B, K, h, w], in nats per token.

    - information: I(x; z), the mean of KL(q ‖ q̄), where q̄ is the mean of q over tokens and ranks
    - marginal: KL(q̄ ‖ uniform)
    """
    q = log_q.exp()
    marginal_q = mean_over_ranks(q.mean((0, 2, 3)))
    negative_entropy = (q * log_q).sum(1).mean()
    # The clamp keeps gradients finite where q̄ underflows to 0.
    log_marginal_q = marginal_q.clamp_min(1e-30).log()
    negative_marginal_entropy = (marginal_q * log_marginal_q).sum()
    information = negative_entropy - negative_marginal_entropy
    marginal = negative_marginal_entropy + math.log(log_q.size(1))
    return information, marginal


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of images [..., C, H, W] in [0, 1]."""
    mse = (a - b).square().mean((-3, -2, -1))
    return -10 * torch.log10(mse.clamp_min(1e-10))
