"""Load the frozen teacher of a tokenizer: never in part."""

import sys

from torch import Tensor, nn

from ..models import BEiT
from ..registry import WEIGHT_INITIALIZERS
from .files import read_file
from .fit import check_fit
from .loading import fit_checkpoint
from .parse import read_checkpoint
from .report import KeyReport
from .state_dicts import find_weights

_BACKBONE = 'backbone.'


@WEIGHT_INITIALIZERS.register_module()
def load_teacher(model: nn.Module, source: str, projection: str | None = None) -> Tensor | None:
    """Load a backbone of beit_mm, mmpretrain or timm; return the weight that `projection` names.

    The arguments and errors are those of `read_teacher`.
    """
    state, weight, report = read_teacher(model, source, projection)
    getattr(model, 'timm_model', model).load_state_dict(state, strict=False)
    report.log()
    return weight


def read_teacher(
    model: nn.Module, source: str, projection: str | None = None
) -> tuple[dict[str, Tensor], Tensor | None, KeyReport]:
    """Return (state dict of a backbone, weight that `projection` names, report of all keys).

    A BEiT takes checkpoints of any project. Other backbones need one with their own keys, with or
    without `backbone.` before them; timm's backbones also take those that timm converts, such as
    OpenCLIP's. Raises ValueError that names every weight that is missing or of another shape.
    """
    if isinstance(model, BEiT):
        if projection:
            raise ValueError(f'projection={projection!r}: expected None, since BEiT has none')
        state, report = fit_checkpoint(read_checkpoint(source), model)
        return state, None, report
    state, _ = find_weights(read_file(source), source)
    network = getattr(model, 'timm_model', model)
    convert = getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
    if network is not model and convert:
        state = convert(state, network)
    if any(key.startswith(_BACKBONE) for key in state):
        state = {key.removeprefix(_BACKBONE): value for key, value in state.items()}
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own}
    check_fit(network, fitting, source)
    if projection and projection not in state:
        raise ValueError(f'{source} has no weight {projection!r}, which projection names')
    report = KeyReport(f'{source}, the teacher')
    for key in state:
        is_used = key in own or key == projection
        report.add('loaded' if is_used else 'skipped', key, '' if is_used else 'not in the teacher')
    return fitting, state[projection].clone() if projection else None, report
