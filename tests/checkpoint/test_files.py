"""A file of any kind is read, whatever its name, and none ever runs code."""

import argparse
import builtins
import copyreg
import http.server
import json
import os
import pickle
import re
import sys
import threading
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fuzz.pickles import text, write
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from safetensors.torch import save_file
from torch import nn

from beit_mm.checkpoint import load, load_backbone, load_tokenizer, read_checkpoint
from beit_mm.checkpoint.export import hf_config
from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.origins import from_ours
from beit_mm.checkpoint.state_dicts import find_weights
from beit_mm.models import BEiT, DiscreteVAE

pytestmark = pytest.mark.any_stack


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# -- kinds of files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapper', ['state_dict', 'model', 'module', None])
def test_every_wrapping_is_read(tmp_path, make_state, wrapper):
    state = make_state('mim')
    inside = {f'module.{k}': v for k, v in state.items()}
    torch.save({wrapper: inside} if wrapper else inside, tmp_path / 'a.pth')
    assert same(load(str(tmp_path / 'a.pth'))[0], state)


@pytest.mark.parametrize('prefix', ['module.', 'model.', 'model._orig_mod.'])
def test_prefixes_of_wrappers_are_removed_and_none_of_two_keys_is_lost(
    tmp_path, make_state, prefix
):
    """Those of DistributedDataParallel, Lightning and torch.compile."""
    state = make_state('mim')
    torch.save(dict(state_dict={prefix + k: v for k, v in state.items()}), tmp_path / 'a.pth')
    assert same(load(str(tmp_path / 'a.pth'))[0], state)
    torch.save(state | {f'{prefix}backbone.cls_token': torch.zeros(1)}, tmp_path / 'b.pth')
    with pytest.raises(
        ValueError,
        match=rf'b\.pth: the keys backbone\.cls_token and {prefix}backbone\.cls_token both mean',
    ):
        load(str(tmp_path / 'b.pth'))


@pytest.mark.parametrize('ema', ['model_ema', 'state_dict_ema', 'ema_state_dict', 'ema'])
@pytest.mark.parametrize('meta', [{}, dict(meta={})], ids=['', 'meta'])
@pytest.mark.parametrize('plain', ['model', 'state_dict', None])
def test_an_average_beside_the_weights_is_named_and_taken_if_asked_for(
    tmp_path, make_state, ema, plain, meta
):
    first, second = make_state('mim', seed=1), make_state('mim', seed=2)
    inside = {f'module.{k}': v for k, v in second.items()} | dict(steps=torch.tensor(3))
    torch.save({ema: inside} | ({plain: first} if plain else {}) | meta, tmp_path / 'a.pth')
    checkpoint = read_checkpoint(str(tmp_path / 'a.pth'))
    found = checkpoint.state
    left = checkpoint.skipped
    assert same(found, first if plain else second)
    checkpoint = read_checkpoint(f'{tmp_path}/a.pth#ema')
    averaged = checkpoint.state
    other = checkpoint.skipped
    swapped = (ema, plain, bool(meta)) == (
        'ema_state_dict',
        'state_dict',
        True,
    )  # by mmengine's EMAHook
    assert same(averaged, first if swapped else second) and f'{ema}.*' not in other
    if plain:
        why = (
            'the weights without averaging'
            if swapped
            else 'the averaged weights: to load them, append #ema'
        )
        assert left[f'{ema}.*'].startswith(why)


def test_copies_within_the_weights_and_second_copies_are_reported(tmp_path, make_state):
    first, second = make_state('mim', seed=1), make_state('mim', seed=2)
    nested = dict(model=dict(model=first, model_ema=second), module=second)
    torch.save(nested, tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert same(found.state, first)
    assert found.skipped['model.model_ema.*'].startswith('the averaged weights')
    assert found.skipped['module.*'] == 'a second copy of the weights'
    assert same(read_checkpoint(f'{tmp_path}/a.pth#ema').state, second)
    torch.save(first | {f'ema.module.{k}': v for k, v in second.items()}, tmp_path / 'b.pth')
    found = read_checkpoint(str(tmp_path / 'b.pth'))
    assert same(found.state, first) and len(found.skipped) >= len(second)


def test_mmengines_loaders_take_the_average_too(tmp_path):
    torch.save(
        dict(state_dict=nn.Linear(2, 2).state_dict(), state_dict_ema=dict(weight=torch.ones(2, 2))),
        tmp_path / 'a.pth',
    )
    model = nn.Linear(2, 2)
    load_checkpoint(model, f'{tmp_path}/a.pth#ema')
    assert (model.weight == 1).all()


def test_a_tensor_in_two_files_of_a_folder_is_an_error(tmp_path, make_state):
    for name in ('model', 'other'):
        save_file(make_state('classifier'), tmp_path / f'{name}.safetensors')
    with pytest.raises(
        ValueError,
        match=r'model\.safetensors and other\.safetensors both hold .*Pass the file to load',
    ):
        load(str(tmp_path))


@pytest.mark.parametrize(
    'name', ['a.pth', 'a.bin', 'model.safetensors', 'a.safetensors', 'a.weights']
)
@pytest.mark.parametrize('kind', ['torch', 'old torch', 'safetensors'])
def test_what_is_inside_decides_not_the_name(tmp_path, make_state, name, kind):
    state, path = make_state('classifier'), tmp_path / name
    if kind == 'safetensors':
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == 'torch')
    if name.endswith('.safetensors') and kind != 'safetensors':
        path = path.rename(tmp_path / 'b')  # torch itself believes that name
    assert same(load(str(path))[0], state)


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_a_hugging_face_folder_with_its_shards_and_its_normalisation(
    tmp_path, make_state, shards, suffix
):
    state = make_state('mim')
    written, stem = from_ours(state, 'hf'), 'model' if suffix == 'safetensors' else 'pytorch_model'
    for i in range(shards):
        part = {k: written[k] for k in sorted(written)[i::shards]}
        name = f'{stem}-{i + 1:05d}-of-{shards:05d}.{suffix}' if shards > 1 else f'{stem}.{suffix}'
        save_file(part, tmp_path / name) if suffix == 'safetensors' else torch.save(
            part, tmp_path / name
        )
    (tmp_path / 'config.json').write_text(json.dumps(hf_config(infer_spec(state), state)))
    settings = dict(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.2] * 3)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(settings))
    found, origin = load(str(tmp_path))
    assert origin == 'hf' and same(found, state)
    assert read_file(tmp_path)['meta']['normalization'] == dict(
        mean=[127.5, 102.0, 76.5], std=[51.0] * 3
    )


def test_the_arguments_that_the_official_code_keeps_are_no_obstacle(tmp_path, make_state):
    state, arguments = make_state('classifier'), argparse.Namespace(lr=1e-3, data_path='/data')
    torch.save(
        dict(model=from_ours(state, 'unilm'), args=arguments, epoch=3),
        tmp_path / 'checkpoint-3.pth',
    )
    found, origin = load(str(tmp_path / 'checkpoint-3.pth'))
    assert origin == 'unilm' and same(found, state)


def test_a_url_is_read_and_kept(tmp_path, make_state, monkeypatch):
    state = make_state('mim')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'site').mkdir()
    save_file(state, tmp_path / 'site/a.safetensors')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / 'site'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/a.safetensors?download=true'
        assert same(load(url)[0], state)
        server.shutdown()
    assert same(load(url)[0], state)


def test_the_averaged_weights_of_a_run_are_read(tmp_path):
    """The weight is −1, then −2; the average starts at the first and takes half of the second."""

    class Toy(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, inputs: torch.Tensor, mode: str = 'tensor', **kwargs) -> dict:
            return dict(loss=self.weight.sum())

    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(
            [dict(inputs=torch.zeros(1))] * 2, batch_size=1
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        custom_hooks=[EMAHook(momentum=0.5)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        experiment_name=tmp_path.name,
    )
    runner.train()
    assert runner.model.weight.item() == -2
    assert find_weights(read_file(tmp_path / 'iter_2.pth'), 'it')[0][
        'weight'
    ].item() == pytest.approx(-1.5)


@pytest.mark.parametrize(
    'named', ['/elsewhere/iter_8.pth', 'iter_8.pth', '{}/iter_8.pth', '{}/checkpoints/iter_8.pth']
)
def test_of_a_runs_folder_the_last_checkpoint_is_read_also_if_it_was_moved(
    tmp_path, make_state, named
):
    state, run = make_state('tokenizer'), tmp_path / 'run'
    path = run / ('checkpoints' if 'checkpoints' in named else '') / 'iter_8.pth'
    path.parent.mkdir(parents=True)
    torch.save(dict(state_dict=state, meta={}), path)
    (run / 'last_checkpoint').write_text(named.format(run))
    model = DiscreteVAE(vocab_size=16, width=8, width_in=8)
    load_tokenizer(model, str(run))
    assert same(dict(model.state_dict()), state)


# -- DALL-E's pickled modules ----------------------------------------------------------------------------------------------


@pytest.fixture
def dalle(tmp_path, make_state) -> tuple[Path, dict]:
    """A folder with encoder.pkl and decoder.pkl, modules of a package that is gone, and what they hold under our names."""
    package, state = 'dall_e.encoder', make_state('tokenizer')

    class Conv2d(nn.Module):
        def __init__(self, weight, bias):
            super().__init__()
            self.w, self.b, self.device = (
                nn.Parameter(weight),
                nn.Parameter(bias),
                torch.device('cpu'),
            )

    def nest(tensors: dict) -> nn.Module:
        if 'weight' in tensors:
            return Conv2d(tensors['weight'], tensors['bias'])
        heads = OrderedDict.fromkeys(key.split('.')[0] for key in tensors)
        parts = {
            h: {k.partition('.')[2]: v for k, v in tensors.items() if k.split('.')[0] == h}
            for h in heads
        }
        layers = OrderedDict((name, nest(part)) for name, part in parts.items())
        return nn.Sequential(
            OrderedDict(
                **layers, relu=nn.ReLU(), pool=nn.MaxPool2d(2), up=nn.Upsample(scale_factor=2)
            )
        )

    class Half(nn.Module):
        def __init__(self, blocks):
            super().__init__()
            self.blocks, self.vocab_size = blocks, 16

    sys.modules['dall_e'], module = ModuleType('dall_e'), ModuleType(package)
    sys.modules[package] = module
    for kind in (Conv2d, Half):
        kind.__module__, kind.__qualname__ = package, kind.__name__
        setattr(module, kind.__name__, kind)
    for half in ('encoder', 'decoder'):
        part = {k.removeprefix(f'{half}.'): v for k, v in state.items() if k.startswith(half)}
        torch.save(Half(nest(part)), tmp_path / f'{half}.pkl')
    del sys.modules['dall_e'], sys.modules[package]
    return tmp_path, state


def test_a_module_of_dalle_gives_its_tensors_though_its_code_is_not_there(dalle):
    folder, state = dalle
    with pytest.raises((ModuleNotFoundError, pickle.UnpicklingError)):
        torch.load(folder / 'encoder.pkl', weights_only=False)
    found, origin = load(str(folder))
    assert origin == 'dall-e' and same(found, state)
    found, origin = load(str(folder / 'decoder.pkl'))
    assert origin == 'dall-e' and same(
        found, {k: v for k, v in state.items() if k.startswith('decoder.')}
    )


def test_a_tokenizer_of_both_halves_decodes_one_of_the_encoder_alone_has_ids(dalle):
    folder, state = dalle
    own = DiscreteVAE(vocab_size=16, width=8, width_in=8)
    own.load_state_dict(state)
    image = torch.rand(1, 3, 16, 16)
    for source in (folder, folder / 'encoder.pkl'):
        model = DiscreteVAE(vocab_size=16, width=8, width_in=8)
        load_tokenizer(model, str(source))
        assert torch.equal(model.tokens(image), own.tokens(image))
        if source == folder:
            assert torch.equal(model.decode(own.tokens(image)), own.decode(own.tokens(image)))
        else:
            with pytest.raises(ValueError, match='holds the encoder alone'):
                model.decode(own.tokens(image))


# -- nothing runs ----------------------------------------------------------------------------------------------------------


def a_module(inside: object) -> object:
    """Something that looks like DALL-E's encoder and has `inside` in it."""
    module = nn.Sequential(nn.ReLU())
    module.inside = inside
    return module


def calls(function, *arguments) -> object:
    """An object whose pickle calls a function."""
    return type('Call', (), {'__reduce__': lambda self: (function, arguments)})()


ATTACKS = dict(
    system=(lambda mark: calls(os.system, f'touch {mark}'), r'posix\.system|os\.system'),
    eval=(lambda mark: calls(builtins.eval, f'open({str(mark)!r}, "w")'), r'eval'),
    path=(lambda mark: calls(Path.touch, mark), r'pathlib'),
    getattr=(
        lambda mark: calls(getattr, torch.Tensor, 'numpy'),
        r'getattr|Unsupported call with',
    ),  # mmengine's own, tamed, is on the list
    # of modules whose classes are stood in for, or whose functions build tensors
    nn=(lambda mark: calls(nn.modules.module.torch.hub.load, str(mark)), r'torch\.hub'),
    utils=(
        lambda mark: calls(torch._utils._import_dotted_name, 'os.system'),
        r'_import_dotted_name',
    ),
)


@pytest.mark.parametrize('where', ['beside the weights', 'in a pickled module', 'in an old file'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_a_pickle_that_would_run_code_is_refused_with_the_name_of_what_it_wanted(
    tmp_path, make_state, attack, where
):
    mark, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    make, name = ATTACKS[attack]
    inside = make(mark)
    if where == 'in a pickled module':
        torch.save(a_module(inside), path)
    else:
        old = where == 'in an old file'
        torch.save(
            dict(model=make_state('mim'), meta=inside), path, _use_new_zipfile_serialization=not old
        )
    loads = [
        read_file,
        load,
        partial(load_backbone, BEiT()),
        partial(load_tokenizer, DiscreteVAE(width=8)),
    ]
    for call in [*loads, partial(load_checkpoint, nn.Linear(1, 1))]:
        with pytest.raises(
            ValueError, match=r'(?s)evil\.pth was not loaded.*Nothing in it was run'
        ) as raised:
            call(str(path))
        if where != 'in a pickled module':  # there the module's own class is what is named first
            assert re.search(name, str(raised.value))
    assert not mark.exists()


def test_what_a_pickle_sets_on_what_it_got_does_not_outlive_the_file(tmp_path, dalle):
    """BUILD sets attributes of any object: of a class that stands in for another, of a function that builds tensors."""
    before = (
        torch._utils._rebuild_tensor_v2.__dict__.copy(),
        torch._utils._rebuild_tensor_v2.__defaults__,
    )
    # GLOBAL torch._utils _rebuild_tensor_v2, an empty tuple of state and a slot state {'__defaults__': ()}, BUILD
    program = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.'
    torch.save(a_module(None), tmp_path / 'a.pth')
    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as good,
        zipfile.ZipFile(tmp_path / 'bad.pth', 'w') as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, program if name.endswith('data.pkl') else good.read(name))
    with pytest.raises(ValueError, match=r'bad\.pth was not loaded'):
        read_file(tmp_path / 'bad.pth')
    assert before == (
        torch._utils._rebuild_tensor_v2.__dict__,
        torch._utils._rebuild_tensor_v2.__defaults__,
    )
    assert load(str(dalle[0]))[1] == 'dall-e'


@pytest.mark.parametrize('kind', ['new', 'old'])
def test_a_function_named_by_its_number_is_refused_too(tmp_path, kind):
    """A pickle may name what a library has registered with copyreg; what was used once, pickle gives without asking."""
    mark, code = tmp_path / 'ran', 201
    copyreg.add_extension('os', 'mkdir', code)
    copyreg._extension_cache[code] = os.mkdir
    try:
        # EXT1, a tuple of the path, REDUCE
        program = b'\x80\x02\x82\xc9(' + text(str(mark)) + b'tR.'
        write(tmp_path / 'a.pth', program, 'zip' if kind == 'new' else 'old')
        with pytest.raises(ValueError, match='Nothing in it was run'):
            load(str(tmp_path / 'a.pth'))
    finally:
        copyreg.remove_extension('os', 'mkdir', code)
        copyreg._extension_cache.pop(code, None)
    assert not mark.exists()


def test_a_torchscript_archive_is_refused_unopened(tmp_path):
    class Script(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.script(Script()).save(tmp_path / 'script.pt')
    with pytest.raises(
        ValueError, match=r'script\.pt is a TorchScript archive, which is a program'
    ):
        load(str(tmp_path / 'script.pt'))


# -- what is no checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'content', [[1, 2], dict(epoch=3), dict(state_dict=dict(a=torch.zeros(1), b='text')), {}]
)
def test_a_file_without_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth holds no state dict'):
        load(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda p: None, FileNotFoundError, r'no checkpoint at .*x. Expected the \.pth file'),
        (lambda p: p.mkdir(), FileNotFoundError, r'x is a folder without weights'),
        (lambda p: p.write_bytes(b''), ValueError, r'x is no checkpoint, or it is incomplete'),
        (lambda p: p.write_text('<html>not found</html>'), ValueError, r'x was not loaded'),
        (
            lambda p: p.write_bytes((2).to_bytes(8, 'little') + b'{}'),
            ValueError,
            r'x holds no state dict',
        ),
        (
            lambda p: p.write_bytes((20).to_bytes(8, 'little') + b'{"a": 1}' + b' ' * 20),
            ValueError,
            r'x is a damaged or incomplete safetensors file',
        ),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, make, error, message):
    make(tmp_path / 'x')
    with pytest.raises(error, match=message):
        load(str(tmp_path / 'x'))


def test_a_tensor_that_a_flipped_bit_marks_as_a_folder_is_damage(tmp_path):
    """torch loads it, as whatever lies in memory."""
    torch.save(dict(weight=torch.randn(16)), tmp_path / 'a.pth')
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    name = content.rfind(b'a/data/0')  # in the index at the end; 46 bytes of its entry come before
    assert content[name - 46 : name - 42] == b'PK\1\2'
    content[name - 46 + 38] ^= 0x10
    (tmp_path / 'a.pth').write_bytes(content)
    assert torch.load(tmp_path / 'a.pth')['weight'].shape == (16,)
    with pytest.raises(
        ValueError, match=r'a\.pth is damaged: its entry a/data/0 does not match its checksum'
    ):
        read_file(tmp_path / 'a.pth')
