"""Checkpoints with damaged bytes, or that would run code, are refused by an error that names the file."""

import copyreg
import functools
import os
import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import convert
import pytest
import torch
from fuzz import pickles
from fuzz.chance import Executed, examples
from fuzz.test_weights import CLASSIFIER, MIM, VAE
from hypothesis import given
from hypothesis import strategies as st
from local_server import served
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from safetensors.torch import save
from small import same_tensors
from torch import nn
from trials import toy

from beit_mm.checkpoint import load, load_backbone, load_tokenizer
from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import add_save_time, find_newest
from beit_mm.engine import launch
from beit_mm.models import BEiT, DiscreteVAE, TokenTarget

pytestmark = pytest.mark.any_stack


@functools.cache
def make_file(kind: str) -> bytes:
    """Return the same weights in a file of a kind."""
    torch.manual_seed(0)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in BEiT(**MIM).state_dict().items()}
    if kind == 'safetensors':
        return save(state)
    stream = BytesIO()
    content = dict(state_dict=state, meta=dict(epoch=3)) if kind == 'wrapped' else state
    torch.save(content, stream, _use_new_zipfile_serialization=kind != 'old torch')
    archive = stream.getvalue()
    return b''.join(add_save_time(archive)) if kind == 'dated' else archive


ZIPS = 'torch', 'wrapped', 'dated'
place = st.floats(0, 1, exclude_max=True)


@examples(400)
@given(
    kind=st.sampled_from([*ZIPS, 'old torch', 'safetensors']),
    cut=st.one_of(st.none(), place), edge=st.booleans(),
    flips=st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=3),
)  # fmt: skip
def test_damaged_bytes_are_an_error_or_change_nothing(tmp_path_factory, kind, cut, edge, flips):
    """torch's old format and safetensors have no checksum: there a flip may change the weights.

    To resume, the checkpoint before a damaged one is used.
    """
    folder, content = tmp_path_factory.mktemp('damage'), bytearray(make_file(kind))
    good, path = folder / 'iter_1.pth', folder / 'iter_2.pth'
    good.write_bytes(content)
    os.utime(good, (0, 0))
    if cut is not None:
        content = content[: int(cut * len(content)) if edge else -1 - int(cut * 200)]
    for where, bits in flips if cut is None else ():
        where = int(where * (min(4096, len(content)) if edge else len(content)))
        from_end = edge and kind in ZIPS
        content[-1 - where if from_end else where] ^= bits
    path.write_bytes(content)
    newest, damaged = find_newest(folder.glob('iter_*.pth'))
    if damaged and kind in ZIPS:
        assert newest == good and 'iter_2.pth: it is' in damaged[0]
    try:
        found = load(str(path))[0]
    except ValueError as error:
        assert str(path) in str(error)
        # Damage of the zip file's index may be found by torch alone.
        assert damaged or f'{path}: it is' not in str(error)
        return 'refused'
    assert cut is None or kind == 'dated'  # cut inside the comment
    if kind in ZIPS:
        assert not damaged
        assert same_tensors(found, load(str(good))[0])
    return None


# -- nothing runs


@pytest.fixture(scope='module')
def ways(tmp_path_factory) -> dict:
    """Return all ways by which a checkpoint is read: (our functions, other libraries' functions)."""
    toy.light()
    work = tmp_path_factory.mktemp('hostile')
    runner = launch.build_runner(toy.config(work, experiment_name=work.name))
    vae = dict(VAE, type='beit_mm.DiscreteVAE')

    def load_from(path: str) -> None:
        runner.call_hook('before_run')
        runner.load_checkpoint(path)

    def init(kind: type, path: str, **settings) -> None:
        kind(**settings, init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()

    ours = dict(
        read_file=read_file,
        load=load,
        load_backbone=lambda path: load_backbone(BEiT(**CLASSIFIER), path),
        load_tokenizer=lambda path: load_tokenizer(DiscreteVAE(**VAE), path),
        pretrained=lambda path: init(BEiT, path, **CLASSIFIER),
        target=lambda path: TokenTarget(vae, path).tokenizer,
        convert=lambda path: convert.main([path, str(work / 'out'), '--to', 'beit_mm']),
    )
    theirs = dict(
        load_checkpoint=lambda path: load_checkpoint(nn.Linear(1, 1), path),
        host_pretrained=lambda path: init(BaseModule, path),
        load_from=load_from,
        resume=runner.resume,
    )
    return dict(ours=ours, theirs=theirs)


@pytest.fixture(scope='module')
def site() -> Iterator[tuple[dict[str, bytes], str]]:
    """Serve files at an address."""
    files: dict[str, bytes] = {}
    with served(files) as (address, _):
        yield files, address


@pytest.fixture(scope='module')
def extensions() -> Iterator[None]:
    """Give dangerous functions a number, as another library may do; pickle remembers used ones."""
    for (module, attribute), code in pickles.EXTENSIONS.items():
        copyreg.add_extension(module, attribute, code)
        copyreg._extension_cache[code] = getattr(os, attribute)
    yield
    for (module, attribute), code in pickles.EXTENSIONS.items():
        copyreg.remove_extension(module, attribute, code)


@examples(60)
@given(
    program=pickles.programs,
    form=st.sampled_from(pickles.FORMS),
    remote=st.booleans(),
    seed=st.integers(0, 10**9),
)
def test_no_checkpoint_runs_code_by_any_way(
    program, form, remote, seed, ways, site, extensions, tmp_path_factory
):
    (files, address), home = site, tmp_path_factory.mktemp('hostile')
    path = tmp_path_factory.mktemp('files') / f'{seed}.pth'
    pickles.write(path, program, form)
    files[f'/{path.name}'] = path.read_bytes()
    source = f'{address}/{path.name}' if remote else str(path)
    init_default_scope('beit_mm')
    outcomes = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(home))
        patch.chdir(home)
        for whose, calls in ways.items():
            for way, call in calls.items():
                outcomes.add(_try(way, call, source, whose == 'ours'))
                if new := {path.name for path in home.iterdir()} - {'hub'}:
                    raise Executed(f'{way} made {new}')
    return 'refused' if 'refused' in outcomes else None


def _try(way: str, call, source: str, ours: bool) -> str | None:
    try:
        call(source)
    except SystemExit as error:
        assert way == 'convert' and str(error.code).startswith('error: '), error
    except (ValueError, FileNotFoundError):
        pass
    except Exception:  # other libraries raise other types for what holds no weights
        if ours:
            raise
    else:
        return None
    return 'refused'


def test_such_programs_run_where_nothing_stops_them(tmp_path, monkeypatch):
    """Otherwise the property would show nothing."""
    monkeypatch.chdir(tmp_path)
    program = b'\x80\x02cos\nmkdir\n(' + pickles.text(pickles.MARK) + b'tR.'
    pickles.write(Path('a.pth'), program, 'zip')
    torch.load('a.pth', weights_only=False, pickle_module=pickle)
    assert Path(pickles.MARK).is_dir()
