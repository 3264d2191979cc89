"""Checkpoints with bytes flipped or cut off, and those that want to run code: an error that names the file, or the same weights."""

import copyreg
import functools
import http.server
import importlib.util
import os
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from fuzz import pickles
from fuzz.chance import Executed, examples
from fuzz.test_weights import CLASSIFIER, MIM, VAE
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import load_checkpoint
from safetensors.torch import save
from torch import nn
from trials import toy

from beit_mm.checkpoint import load, load_backbone, load_tokenizer
from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import find_newest
from beit_mm.engine import launch
from beit_mm.models import BEiT, DiscreteVAE, TokenTarget

pytestmark = pytest.mark.any_stack

KINDS = 'torch', 'wrapped', 'old torch', 'safetensors'


@functools.cache  # no fixture, which a failure would print
def whole(kind: str) -> bytes:
    """The same weights as torch writes them, as mmengine wraps them, …"""
    torch.manual_seed(0)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in BEiT(**MIM).state_dict().items()}
    if kind == 'safetensors':
        return save(state)
    stream = BytesIO()
    content = dict(state_dict=state, meta=dict(epoch=3)) if kind == 'wrapped' else state
    torch.save(content, stream, _use_new_zipfile_serialization=kind != 'old torch')
    return stream.getvalue()


@functools.cache
def right(content: bytes, path: Path) -> dict:
    path.write_bytes(content)
    return load(str(path))[0]


def refused_or_right(path: Path, content: bytes, expected: dict | None) -> str | None:
    path.write_bytes(content)
    try:
        found = load(str(path))[0]
    except ValueError as error:
        assert str(path) in str(error) or 'no BEiT' in str(error) or 'keys' in str(error), error
        return 'refused'
    if expected is not None:
        assert found.keys() == expected.keys() and all(
            torch.equal(v, expected[k]) for k, v in found.items()
        )
    return None


@examples(150)
@given(kind=st.sampled_from(KINDS), place=st.floats(0, 1, exclude_max=True), edge=st.booleans())
def test_a_cut_file_is_an_error_or_has_all_its_weights(tmp_path_factory, kind, place, edge):
    path, content = tmp_path_factory.mktemp('cut') / 'a.pth', whole(kind)
    cut = content[: int(place * len(content)) if edge else -1 - int(place * 200)]
    word = refused_or_right(path, cut, right(content, path.with_name('good.pth')))
    assert word == 'refused'
    return word


@examples(250)
@given(
    kind=st.sampled_from(KINDS), edge=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3),
)  # fmt: skip
def test_flipped_bytes_are_an_error_or_change_nothing(tmp_path_factory, kind, edge, flips):
    """torch's old format and safetensors have no checksum: there an error or some tensors, and the process lives."""
    content, folder = bytearray(whole(kind)), tmp_path_factory.mktemp('flip')
    for place, bits in flips:
        place = int(place * (min(4096, len(content)) if edge else len(content)))
        content[-1 - place if edge and kind not in ('old torch', 'safetensors') else place] ^= bits
    expected = right(whole(kind), folder / 'good.pth')
    word = refused_or_right(
        folder / 'a.pth', bytes(content), None if kind in KINDS[2:] else expected
    )
    return word


@examples(60)
@given(
    flips=st.lists(st.floats(0, 1, exclude_max=True), max_size=3),
    cut=st.one_of(st.none(), st.floats(0.01, 1)),
)
def test_resume_takes_the_checkpoint_before_a_damaged_one(tmp_path_factory, flips, cut):
    folder, content = tmp_path_factory.mktemp('run'), bytearray(whole('wrapped'))
    (folder / 'iter_1.pth').write_bytes(whole('wrapped'))
    for place in flips:
        content[int(place * len(content))] ^= 1
    content = content if cut is None else content[: -max(1, int(cut * len(content)))]
    (folder / 'iter_2.pth').write_bytes(content)
    os.utime(folder / 'iter_1.pth', (0, 0))
    path, damaged = find_newest(folder.glob('iter_*.pth'))
    if path.name == 'iter_1.pth':
        assert 'iter_2.pth' in damaged[0] and bytes(content) != whole('wrapped')
        return 'refused'
    return refused_or_right(path, bytes(content), right(whole('wrapped'), folder / 'good.pth'))


# -- nothing runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def ways(tmp_path_factory) -> dict:
    """All ways by which a checkpoint comes in: (ours, whose errors are documented; the hosts')."""
    spec = importlib.util.spec_from_file_location(
        'convert', Path(__file__).parents[2] / 'tools/convert.py'
    )
    convert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    toy.light()
    work = tmp_path_factory.mktemp('hostile')
    before = {kind: dict(kind._instance_dict) for kind in (DefaultScope, MMLogger)}
    runner = launch.build_runner(toy.config(work, experiment_name=work.name))
    for kind, instances in before.items():  # conftest.py does it for what is built inside a test
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)
    vae = dict(VAE, type='beit_mm.DiscreteVAE')

    def pretrained(path: str) -> None:
        BEiT(**CLASSIFIER, init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()

    def host_pretrained(path: str) -> None:
        from mmengine.model import BaseModule

        class Host(BaseModule):
            def __init__(self):
                super().__init__(dict(type='Pretrained', checkpoint=path))
                self.fc = nn.Linear(1, 1)

        Host().init_weights()

    def load_from(path: str) -> None:
        runner.call_hook('before_run')
        runner.load_checkpoint(path)

    ours = dict(
        read_file=read_file,
        load=load,
        load_backbone=lambda path: load_backbone(BEiT(**CLASSIFIER), path),
        load_tokenizer=lambda path: load_tokenizer(DiscreteVAE(**VAE), path),
        pretrained=pretrained,
        target=lambda path: TokenTarget(vae, path).tokenizer,
        convert=lambda path: convert.main([path, str(work / 'out'), '--to', 'beit_mm']),
    )
    theirs = dict(
        load_checkpoint=lambda path: load_checkpoint(nn.Linear(1, 1), path),
        host_pretrained=host_pretrained,
        load_from=load_from,
        resume=runner.resume,
    )
    return dict(ours=ours, theirs=theirs)


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a server on this machine gives its files."""
    folder = tmp_path_factory.mktemp('site')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture(scope='module')
def extensions() -> Iterator[None]:
    """Another library of the process has given a dangerous function a code, and used it: pickle remembers those unasked."""
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
    program, form, remote, seed, ways, site, extensions, tmp_path_factory, monkeypatch_module
):
    folder, address = site
    home = tmp_path_factory.mktemp('hostile')
    monkeypatch_module.setenv('TORCH_HOME', str(home))
    mark, path = home / 'ran', folder / f'{seed}.pth'
    pickles.write(path, pickles.marked(program, mark), form)
    where = f'{address}/{path.name}' if remote else str(path)
    init_default_scope('beit_mm')
    words = set()
    before = set(home.iterdir())
    with pytest.MonkeyPatch.context() as place:
        place.chdir(home)
        for whose, calls in ways.items():
            for way, call in calls.items():
                words.add(_tried(way, call, where, whose == 'ours'))
                new = {p.name for p in set(home.iterdir()) - before} - {'hub'}
                if new:
                    raise Executed(f'{way} made {new}')
    path.unlink()
    return 'refused' if 'refused' in words else None


def _tried(way: str, call, where: str, ours: bool) -> str | None:
    try:
        call(where)
    except SystemExit as error:
        assert way == 'convert' and str(error.code).startswith('error: '), error
    except (ValueError, FileNotFoundError):
        pass
    except Exception:  # the hosts' own words for what holds no weights
        if ours:
            raise
    else:
        return None
    return 'refused'


@pytest.fixture(scope='module')
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_these_programs_do_run_where_nothing_stops_them(tmp_path):
    """Else the property would show nothing."""
    import pickle

    mark = tmp_path / 'ran'
    program = b'\x80\x02cos\nmkdir\n(' + pickles.text(pickles.MARK) + b'tR.'
    pickles.write(tmp_path / 'a.pth', pickles.marked(program, mark), 'zip')
    torch.load(tmp_path / 'a.pth', weights_only=False, pickle_module=pickle)
    assert mark.is_dir()
