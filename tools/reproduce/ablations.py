"""The paper's ablations and claims, as configs/reproduce/_base_/ablations.py states them."""

from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

_PATH = Path(__file__).parents[2] / 'configs/reproduce/_base_/ablations.py'
_CONFIG = Config.fromfile(str(_PATH))
BEIT = _CONFIG.beit
METRIC_OF_TASK = dict(classification='top1', segmentation='mIoU')  # task → metric


@dataclass(frozen=True)
class Ablation:
    """One row of the paper's tables; the config explains the fields."""

    title: str
    config: str | None
    paper: dict[str, float] = field(default_factory=dict)
    length: float = 1.0
    tokenizer: str = 'tokenizer'
    start: str | None = None
    through: str | None = None
    kind: str = 'pretrained'
    tasks: tuple[str, ...] = tuple(METRIC_OF_TASK)


@dataclass(frozen=True)
class Claim:
    """The paper's claim that one ablation is better than another, by `gap` (metric → points)."""

    sentence: str
    better: str
    worse: str
    gap: dict[str, float]


def _read_claim(sentence: str, better: str, worse: str, gap: dict | None = None) -> Claim:
    high, low = ABLATIONS[better].paper, ABLATIONS[worse].paper
    gaps = {metric: round(high[metric] - low[metric], 2) for metric in low if metric in high}
    return Claim(sentence, better, worse, gaps | (gap or {}))


ABLATIONS = {name: Ablation(**entry) for name, entry in _CONFIG.ablations.to_dict().items()}
CLAIMS = [_read_claim(**entry) for entry in _CONFIG.to_dict()['claims']]
