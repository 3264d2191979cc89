"""Checkpoint files of any kind are read, whatever their name, and no code from them is run."""

import argparse
import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fuzz.pickles import write
from mmengine.hooks import EMAHook
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file
from small import same_tensors
from torch import nn

from beit_mm.checkpoint import load, load_tokenizer, read_checkpoint
from beit_mm.checkpoint.export import make_hf_config
from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.origins import from_ours, to_dalle
from beit_mm.checkpoint.state_dicts import list_unused_copies
from beit_mm.models import DiscreteVAE

pytestmark = pytest.mark.any_stack
VAE = dict(vocab_size=16, width=8, width_in=8)


@pytest.mark.parametrize(
    ('wrapper', 'prefix'),
    [('state_dict', 'model.'), ('model', 'model._orig_mod.'), ('module', 'module.'), (None, 'module.')],
)  # fmt: skip
def test_wrappers_and_their_prefixes_are_removed(tmp_path, make_state, wrapper, prefix):
    """Also beside the arguments that the official code saves."""
    state = make_state('mim')
    inside = {prefix + key: value for key, value in state.items()}
    arguments = argparse.Namespace(lr=1e-3, data_path='/data')
    torch.save({wrapper: inside, 'args': arguments} if wrapper else inside, tmp_path / 'a.pth')
    assert same_tensors(load(str(tmp_path / 'a.pth'))[0], state)


@pytest.mark.parametrize('ema', ['model_ema', 'state_dict_ema', 'ema_state_dict', 'ema'])
@pytest.mark.parametrize('plain', ['model', 'state_dict', None])
def test_an_average_beside_the_weights_is_reported_and_loaded_on_request(
    tmp_path, make_state, ema, plain
):
    first, second = make_state('mim', seed=1), make_state('mim', seed=2)
    inside = {f'module.{k}': v for k, v in second.items()} | dict(steps=torch.tensor(3))
    torch.save({ema: inside} | ({plain: first} if plain else {}), tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert same_tensors(found.state, first if plain else second)
    note = 'the averaged weights: to load them, append #ema'
    assert found.skipped.get(f'{ema}.*', note).startswith(note)
    assert (f'{ema}.*' in found.skipped) is bool(plain)
    averaged = read_checkpoint(f'{tmp_path}/a.pth#ema')
    assert same_tensors(averaged.state, second) and f'{ema}.*' not in averaged.skipped


def test_nested_and_second_copies_are_reported(tmp_path, make_state):
    first, second = make_state('mim', seed=1), make_state('mim', seed=2)
    nested = dict(model=dict(model=first, model_ema=second), module=second)
    torch.save(nested, tmp_path / 'a.pth')
    found = read_checkpoint(str(tmp_path / 'a.pth'))
    assert same_tensors(found.state, first)
    assert found.skipped['model.model_ema.*'].startswith('the averaged weights')
    assert found.skipped['module.*'] == 'a second copy of the weights'
    assert same_tensors(read_checkpoint(f'{tmp_path}/a.pth#ema').state, second)
    torch.save(first | {f'ema.module.{k}': v for k, v in second.items()}, tmp_path / 'b.pth')
    found = read_checkpoint(str(tmp_path / 'b.pth'))
    assert same_tensors(found.state, first) and len(found.skipped) >= len(second)


def test_mmengines_average_is_loaded_with_and_without_ema(tmp_path):
    """Its hook saves the average, here half of the weights, as `state_dict`."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(1))
    hook, runner = EMAHook(momentum=0.5), SimpleNamespace(model=model, iter=0)
    hook.before_run(runner)
    hook.after_train_iter(runner, 0)
    model.weight.data.zero_()
    hook.after_train_iter(runner, 1)
    checkpoint = dict(meta={}, state_dict=model.state_dict())
    hook.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'a.pth')
    for source in (f'{tmp_path}/a.pth', f'{tmp_path}/a.pth#ema'):
        load_checkpoint(model, source)
        assert model.weight.item() == 0.5
    assert list_unused_copies(checkpoint) == {'ema_state_dict.*': 'the weights without averaging'}


@pytest.mark.parametrize('kind', ['torch', 'old torch', 'safetensors'])
def test_the_content_decides_not_the_name(tmp_path, make_state, kind):
    state = make_state('classifier')
    for name in ('a.pth', 'a.bin', 'model.safetensors', 'a.weights'):
        if kind == 'safetensors':
            save_file(state, tmp_path / name)
        elif name == 'model.safetensors':  # torch.load itself goes by this name
            continue
        else:
            torch.save(state, tmp_path / name, _use_new_zipfile_serialization=kind == 'torch')
        assert same_tensors(load(str(tmp_path / name))[0], state)


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_a_hugging_face_folder_has_shards_and_normalization(tmp_path, make_state, shards, suffix):
    state = make_state('mim')
    written, stem = from_ours(state, 'hf'), 'model' if suffix == 'safetensors' else 'pytorch_model'
    for i in range(shards):
        part = {key: written[key] for key in sorted(written)[i::shards]}
        path = tmp_path / f'{stem}-{i + 1:05d}-of-{shards:05d}.{suffix}'
        save_file(part, path) if suffix == 'safetensors' else torch.save(part, path)
    (tmp_path / 'config.json').write_text(json.dumps(make_hf_config(infer_spec(state), state)))
    settings = dict(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.2] * 3)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(settings))
    found = read_checkpoint(str(tmp_path))
    assert found.origin == 'hf' and same_tensors(found.state, state)
    assert found.meta['normalization'] == dict(mean=[127.5, 102.0, 76.5], std=[51.0] * 3)


@pytest.mark.parametrize(
    'named', ['/elsewhere/iter_8.pth', 'iter_8.pth', '{}/iter_8.pth', '{}/checkpoints/iter_8.pth']
)
def test_the_folder_of_a_run_means_its_last_checkpoint_also_if_moved(tmp_path, make_state, named):
    state, run = make_state('tokenizer'), tmp_path / 'run'
    path = run / ('checkpoints' if 'checkpoints' in named else '') / 'iter_8.pth'
    path.parent.mkdir(parents=True)
    torch.save(dict(state_dict=state, meta={}), path)
    (run / 'last_checkpoint').write_text(named.format(run))
    model = DiscreteVAE(**VAE, init_cfg=dict(type='Pretrained', checkpoint=str(run)))
    model.init_weights()
    assert same_tensors(dict(model.state_dict()), state)


# -- DALL-E's pickled modules


@pytest.fixture
def dalle(tmp_path, make_state, monkeypatch) -> tuple[Path, dict]:
    """Write encoder.pkl and decoder.pkl, modules of a package that is gone; return also our state."""
    package, state = ModuleType('dall_e.encoder'), make_state('tokenizer')
    package.Part = part = type('Part', (nn.Module,), dict(__module__='dall_e.encoder'))

    def nest(state: dict) -> nn.Module:
        root = part()
        for key, value in state.items():
            node, (*names, last) = root, key.split('.')
            for name in names:
                if name not in node._modules:
                    node.add_module(name, part())
                node = node._modules[name]
            node.register_parameter(last, nn.Parameter(value))
            node.pool, node.device = nn.MaxPool2d(2), torch.device('cpu')
        return root

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'dall_e', ModuleType('dall_e'))
        patch.setitem(sys.modules, 'dall_e.encoder', package)
        for half in ('encoder', 'decoder'):
            own = {k.replace('decoder.', 'encoder.'): v for k, v in state.items() if half in k}
            torch.save(nest(to_dalle(own)), tmp_path / f'{half}.pkl')
    return tmp_path, state


def test_dalles_modules_are_read_without_their_code(dalle):
    """Encoder and decoder reconstruct an image, the encoder alone gives its ids."""
    folder, state = dalle
    with pytest.raises((ModuleNotFoundError, pickle.UnpicklingError)):
        torch.load(folder / 'encoder.pkl', weights_only=False)
    found, origin = load(str(folder))
    assert origin == 'dall-e' and same_tensors(found, state)
    decoder = {key: value for key, value in state.items() if key.startswith('decoder.')}
    assert same_tensors(load(str(folder / 'decoder.pkl'))[0], decoder)
    model, image = DiscreteVAE(**VAE), torch.rand(1, 3, 16, 16)
    load_tokenizer(model, str(folder))
    ids = model.tokens(image)
    model.decode(ids)
    load_tokenizer(model, str(folder / 'encoder.pkl'))
    assert torch.equal(model.tokens(image), ids)
    with pytest.raises(ValueError, match='holds the encoder alone'):
        model.decode(ids)


# -- nothing runs


@pytest.mark.parametrize('is_new', [True, False])
@pytest.mark.parametrize(
    ('function', 'argument', 'name'),
    [
        (os.system, 'touch {}', r'posix\.system|os\.system'),
        (eval, "open('{}', 'w')", 'eval'),
        (Path.touch, Path('{}'), 'pathlib'),
        # Functions in modules of which other functions build tensors, or classes have stand-ins
        (nn.modules.module.torch.hub.load, '{}', r'torch\.hub'),
        (torch._utils._import_dotted_name, 'os.system', '_import_dotted_name'),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_with_the_functions_name(
    tmp_path, make_state, monkeypatch, function, argument, name, is_new
):
    monkeypatch.chdir(tmp_path)
    arguments = (type(argument)(str(argument).format('ran')),)
    call = type('Call', (), {'__reduce__': lambda self: (function, arguments)})()
    content = dict(model=make_state('mim'), meta=call)
    torch.save(content, 'evil.pth', _use_new_zipfile_serialization=is_new)
    refusal = rf'evil\.pth was not loaded.*({name}).*Nothing in it was run'
    with pytest.raises(ValueError, match=refusal):
        read_file('evil.pth')
    assert not Path('ran').exists()


def test_attributes_that_a_pickle_sets_do_not_outlive_the_file(tmp_path, dalle):
    """BUILD sets attributes of any object, also of stand-ins and of functions that build tensors."""
    function = torch._utils._rebuild_tensor_v2
    before = function.__dict__.copy(), function.__defaults__
    # GLOBAL, an empty tuple of state and a slot state {'__defaults__': ()}, BUILD
    program = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.'
    write(tmp_path / 'bad.pth', program, 'module')
    with pytest.raises(ValueError, match=r'bad\.pth was not loaded'):
        read_file(tmp_path / 'bad.pth')
    assert before == (function.__dict__, function.__defaults__)
    assert load(str(dalle[0]))[1] == 'dall-e'


# -- refusals


def two_files(path: Path) -> None:
    path.mkdir()
    for name in ('model', 'other'):
        save_file(dict(a=torch.zeros(1)), path / f'{name}.safetensors')


def script(path: Path) -> None:
    torch.jit.trace(nn.ReLU(), torch.zeros(1)).save(path)


def safetensors(path: Path, length: int, header: str) -> None:
    path.write_bytes(length.to_bytes(8, 'little') + header.encode())


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda path: None, FileNotFoundError, r'no checkpoint at .*x. Expected the \.pth file'),
        (lambda path: path.mkdir(), FileNotFoundError, 'x is a folder without weights'),
        (two_files, ValueError, r'model\.safetensors and other\.safetensors both hold a.*Pass the file to load'),
        (script, ValueError, 'x is a TorchScript archive, which is a program'),
        (lambda path: path.write_bytes(b''), ValueError, 'x is no checkpoint, or it is incomplete'),
        (lambda path: path.write_text('<html>not found</html>'), ValueError, 'x was not loaded'),
        (lambda path: safetensors(path, 2, '{}'), ValueError, 'x holds no state dict'),
        (lambda path: safetensors(path, 20, '{"a": 1}' + ' ' * 20), ValueError, 'x is a damaged or incomplete safetensors'),
        (lambda path: torch.save([1, 2], path), ValueError, 'x holds no state dict'),
        (lambda path: torch.save(dict(state_dict=dict(b='text')), path), ValueError, 'x holds no state dict'),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path, make, error, message):
    make(tmp_path / 'x')
    with pytest.raises(error, match=message):
        load(str(tmp_path / 'x'))
