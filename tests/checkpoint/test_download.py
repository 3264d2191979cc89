"""Checkpoints named by a URL, by `hf://ORG/NAME` or by a published name, from local servers."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from huggingface_hub import constants
from local_server import COMMIT, served
from safetensors.torch import save

from beit_mm.checkpoint import download
from beit_mm.checkpoint.files import read_file

pytestmark = pytest.mark.any_stack

REPOSITORY = 'org/beit'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    return tmp_path / 'hub/checkpoints'


def weights(value: float) -> bytes:
    return save(dict(weight=torch.full((2,), value)))


def value(source: str) -> float:
    content = read_file(source)
    return content.get('state_dict', content)['weight'][0].item()


def files_in(folder) -> list[str]:
    names = sorted(path.name for path in folder.rglob('*') if path.is_file())
    return [name for name in names if name != '.lock']


def test_files_are_cached_by_url_not_by_name(cache):
    paths = ['/a/model.safetensors', '/b/model.safetensors', '/b/model.safetensors?version=2']
    with served({path: weights(i) for i, path in enumerate(paths)}) as (address, fetched):
        assert [value(address + path) for path in paths] == [0, 1, 2]
    assert [value(address + path) for path in paths] == [0, 1, 2]
    assert set(fetched.values()) == {1} and files_in(cache) == ['model.safetensors'] * 3


@pytest.mark.parametrize('name', ['{hash}', '20221114', '20221128-{hash}'])
def test_a_hash_in_the_name_is_checked_and_a_date_is_none(name):
    digests = {hashlib.sha256(weights(i)).hexdigest()[:8]: weights(i) for i in range(99)}
    digest = next(digest for digest in digests if not digest.isdecimal())
    path = f'/beit-{name.format(hash=digest)}.pth'
    with served({path: digests[digest]}) as (address, _):
        assert value(address + path) >= 0
    with served({path: weights(-1.0)}) as (address, _):
        if name == '20221114':
            assert value(address + path) == -1
            return
        message = f'{address}{path} could not be downloaded .its SHA-256 is .*, its name says '
        with pytest.raises(FileNotFoundError, match=message):
            value(address + path)


@pytest.mark.parametrize(
    ('content', 'announced', 'reason'),
    [
        (None, 0, '404'),
        (weights(1), 1000, r'interrupted after \d+ of \d+ bytes'),
        (b'', 0, 'interrupted after 0'),
        (b'<html>sign in</html>', 0, 'it is a web page'),
    ],
)
def test_a_failed_download_is_named_and_leaves_nothing(cache, content, announced, reason):
    files = {} if content is None else {'/a.pth': content}
    with served(files, announced) as (address, _):
        message = rf'{address}/a\.pth could not be downloaded .*{reason}.*by hand and save it as'
        with pytest.raises(FileNotFoundError, match=message):
            read_file(f'{address}/a.pth')
    assert files_in(cache) == []


def test_a_downloaded_file_that_cannot_be_read_is_named_with_its_url():
    with served({'/a.pth': b'half of a file'}) as (address, _):
        message = rf'downloaded from {address}/a.pth. Delete it'
        with pytest.raises(ValueError, match=message):
            read_file(f'{address}/a.pth')


def test_a_cache_that_cannot_be_written_is_named_with_the_url(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(FileNotFoundError, match='http://127.0.0.1:1/a.pth could not be downloaded'):
        read_file('http://127.0.0.1:1/a.pth')


def test_of_several_processes_one_downloads():
    with (
        served({'/a.safetensors': weights(3)}) as (address, fetched),
        ThreadPoolExecutor(4) as pool,
    ):
        assert set(pool.map(value, [f'{address}/a.safetensors'] * 4)) == {3}
    assert fetched['/a.safetensors'] == 1


def test_a_published_name_is_its_url_unless_a_file_has_that_name(tmp_path, monkeypatch):
    name = 'beit_base_patch16_224_pt22k'
    with served({f'/{name}.pth': weights(5)}) as (address, _):
        entry = dict(download.published()[name], address=f'{address}/{name}.pth')
        monkeypatch.setitem(download.published(), name, entry)
        assert download.is_remote(name) and value(name) == 5
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(weights(6))
    assert not download.is_remote(name) and value(name) == 6


# -- Hugging Face


def repository(content: dict[str, bytes], revision: str = 'main') -> dict[str, bytes]:
    """Return what a server has of a repository: its description and its files."""
    listed = [
        dict(type='file', path=file, rfilename=file, size=len(data), oid='0')
        for file, data in content.items()
    ]
    about = dict(id=REPOSITORY, sha=COMMIT, siblings=listed, private=False, tags=[], downloads=0)
    pages = {f'/api/models/{REPOSITORY}/revision/{revision}': about | dict(likes=0)}
    for at in (revision, COMMIT):
        for query in ('?recursive=True&expand=False', '?recursive=true&expand=false'):
            pages[f'/api/models/{REPOSITORY}/tree/{at}{query}'] = listed
    files = {f'/{REPOSITORY}/resolve/{COMMIT}/{file}': data for file, data in content.items()}
    return {path: json.dumps(page).encode() for path, page in pages.items()} | files


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function that points Hugging Face's library to a server, as HF_ENDPOINT does."""

    def use(address: str) -> None:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, 'ENDPOINT', address)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hf'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    return use


@pytest.mark.parametrize(
    ('revision', 'files'),
    [
        ('main', ['model.safetensors', 'config.json', 'pytorch_model.bin']),
        ('v2', ['pytorch_model.bin']),
    ],
)
def test_a_repository_of_hugging_face_is_read_and_cached(hub, monkeypatch, revision, files):
    """The content of a file decides how it is read, not its name."""
    content = {name: weights(7) if name == files[0] else b'{}' for name in files}
    source = f'hf://{REPOSITORY}' + ('' if revision == 'main' else f'@{revision}')
    with served(repository(content, revision)) as (address, fetched):
        hub(address)
        assert value(source) == 7
        assert any('pytorch_model' in path for path in fetched) is (files[0] == 'pytorch_model.bin')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert value(source) == 7


@pytest.mark.parametrize(
    ('source', 'reason'),
    [('hf://org/gone', 'could not be downloaded'), ('hf://org/beit', 'holds no weights')],
)
def test_a_repository_that_is_missing_or_without_weights_is_named(hub, source, reason):
    with served(repository({'config.json': b'{}'})) as (address, _):
        hub(address)
        with pytest.raises(FileNotFoundError, match=rf'{source}.* {reason}'):
            read_file(source)
