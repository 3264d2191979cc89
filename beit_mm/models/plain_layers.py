"""Fast paths that use the weights of a linear layer without calling the layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Return whether calling `layer` does nothing but apply the weights of a `kind`.

    False for subclasses and adapters (LoRA, quantized layers, parametrizations), replaced weights
    and layers with hooks (pruning, weight norm, FLOP counters): such a layer must be called.
    """
    has_own_weight = type(layer) is kind and type(layer.weight) in (nn.Parameter, Tensor)
    return has_own_weight and not is_hooked(layer)


def is_hooked(layer: nn.Module) -> bool:
    """Return whether calling `layer` runs hooks, or a `forward` that is not its class's."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or 'forward' in vars(layer) or _has_any_global_hook()


def scaled_linear(linear: nn.Module, x: Tensor, gamma: Tensor | None) -> Tensor:
    """Return gamma · linear(x), where gamma [D] is LayerScale, or linear(x) if gamma is None.

    In training on a CPU, the weights of a plain layer are scaled instead of its outputs: this saves
    one pass over the outputs, and autograd does not keep them. On a GPU, float16 cannot hold
    weights times 1e-5.
    """
    if gamma is None:
        return linear(x)
    # torch.jit checks a trace by a second one without gradients.
    is_training = torch.is_grad_enabled() and not torch.jit.is_tracing()
    trains_on_cpu = is_training and x.device.type == 'cpu'
    if trains_on_cpu and is_plain(linear) and linear.bias is not None:
        return F.linear(x, gamma[:, None] * linear.weight, gamma * linear.bias)
    return gamma * linear(x)
