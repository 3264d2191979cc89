"""Checkpoints that are named by a URL, by `hf://ORG/NAME`, or by a published file's name; all servers are local."""

import hashlib
import http.server
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from beit_mm.checkpoint import download, load
from beit_mm.checkpoint.files import read_file

REPOSITORY, COMMIT = 'org/beit', '0123456789abcdef0123456789abcdef01234567'


@contextmanager
def served(files: dict[str, bytes], announced: int = 0):
    """A server of `files` by path that says they are `announced` bytes longer; its address, and how often each was fetched."""
    asked = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path
            content = files.get(path)
            asked[path] += self.command == 'GET'
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header(
                    'X-Error-Code', 'RepoNotFound' if 'gone' in path else 'EntryNotFound'
                )
            content = content or b''
            self.send_header('Content-Length', str(len(content) + announced))
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header('X-Repo-Commit', COMMIT)
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}', asked
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    return tmp_path / 'hub/checkpoints'


def weights(value: float) -> bytes:
    return save(dict(weight=torch.full((2,), value)))


def value(source: str) -> float:
    return read_file(source)['weight'][0].item()


def files_in(folder) -> list[str]:
    return sorted(
        path.name for path in folder.rglob('*') if path.is_file() and path.name != '.lock'
    )


def test_files_of_one_name_are_told_apart_by_their_address_and_kept(cache):
    paths = ['/a/model.safetensors', '/b/model.safetensors', '/b/model.safetensors?version=2']
    with served({path: weights(i) for i, path in enumerate(paths)}) as (address, asked):
        assert [value(address + path) for path in paths] == [0, 1, 2]
    assert [value(address + path) for path in paths] == [0, 1, 2]
    assert set(asked.values()) == {1} and files_in(cache) == ['model.safetensors'] * 3


def test_an_interrupted_download_is_named_and_leaves_nothing(cache):
    words = r'http://.*/a.safetensors was interrupted after \d+ of \d+ bytes. Run again, or download it by hand'
    with (
        served({'/a.safetensors': weights(1)}, announced=1000) as (address, _),
        pytest.raises(FileNotFoundError, match=words),
    ):
        value(f'{address}/a.safetensors')
    assert files_in(cache) == []


@pytest.mark.parametrize('name', ['{hash}', '20221114', '20221128-{hash}'])
def test_a_hash_in_the_name_is_checked_and_a_date_is_none(name, cache):
    content = next(
        weights(i) for i in range(99) if not hashlib.sha256(weights(i)).hexdigest()[:8].isdecimal()
    )
    path = f'/beit-{name.format(hash=hashlib.sha256(content).hexdigest()[:8])}.pth'
    with served({path: content}) as (address, _):
        assert value(address + path) >= 0
    other = {path: weights(-1.0)}
    with served(other) as (address, _):
        if '{hash}' in name:
            with pytest.raises(
                ValueError, match=f'{address}{path}: its SHA-256 is .*, its name says .*save it as'
            ):
                value(address + path)
        else:
            assert value(address + path) == -1


def test_what_cannot_be_downloaded_is_named_with_a_way_out():
    words = r'http://.*/a.pth could not be downloaded .*404.*pass the path of'
    with served({}) as (address, _), pytest.raises(FileNotFoundError, match=words):
        read_file(f'{address}/a.pth')


def test_a_web_page_and_an_empty_answer_are_no_files(cache):
    with served({'/a.pth': b'<html>sign in</html>', '/b.pth': b''}) as (address, _):
        with pytest.raises(ValueError, match=rf'{address}/a.pth is a web page'):
            read_file(f'{address}/a.pth')
        with pytest.raises(FileNotFoundError, match=rf'{address}/b.pth was interrupted after 0'):
            read_file(f'{address}/b.pth')
    assert files_in(cache) == []


def test_a_downloaded_file_that_cannot_be_read_is_named_with_its_address(cache):
    with (
        served({'/a.pth': b'half of a file'}) as (address, _),
        pytest.raises(ValueError, match=rf'downloaded from {address}/a.pth. Delete it'),
    ):
        read_file(f'{address}/a.pth')


def test_a_cache_that_cannot_be_written_is_named_with_the_address(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(FileNotFoundError, match='http://127.0.0.1:1/a.pth could not be downloaded'):
        read_file('http://127.0.0.1:1/a.pth')


def test_of_several_processes_one_downloads():
    with served({'/a.safetensors': weights(3)}) as (address, asked), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(value, [f'{address}/a.safetensors'] * 4)) == {3}
    assert asked['/a.safetensors'] == 1


def test_a_published_name_is_an_address_unless_there_is_such_a_file(cache, tmp_path, monkeypatch):
    name = 'beit_base_patch16_224_pt22k'
    with served({f'/{name}.pth': weights(5)}) as (address, _):
        entry = dict(download.published()[name], address=f'{address}/{name}.pth')
        monkeypatch.setitem(download.published(), name, entry)
        assert download.is_remote(name) and value(name) == 5
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(weights(6))
    assert not download.is_remote(name) and value(name) == 6


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def repository(name: str, content: dict[str, bytes], revision: str = 'main') -> dict[str, bytes]:
    """What a server has of a repository: its description and its files."""
    listed = [
        dict(type='file', path=file, rfilename=file, size=len(data), oid='0')
        for file, data in content.items()
    ]
    about = dict(id=name, sha=COMMIT, siblings=listed, private=False, tags=[], downloads=0, likes=0)
    pages = {f'/api/models/{name}/revision/{revision}': about}
    for at in (revision, COMMIT):
        for query in ('?recursive=True&expand=False', '?recursive=true&expand=false'):
            pages[f'/api/models/{name}/tree/{at}{query}'] = listed
    files = {f'/{name}/resolve/{COMMIT}/{file}': data for file, data in content.items()}
    return {path: json.dumps(page).encode() for path, page in pages.items()} | files


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Has Hugging Face's library ask a local server, as HF_ENDPOINT does before its import."""

    def use(address: str) -> None:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, 'ENDPOINT', address)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hf'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    return use


@pytest.mark.parametrize('revision', ['main', 'v2'])
def test_a_repository_of_hugging_face_is_read_and_found_again_offline(hub, monkeypatch, revision):
    content = {
        'model.safetensors': weights(7),
        'config.json': b'{}',
        'pytorch_model.bin': b'not needed',
    }
    source = f'hf://{REPOSITORY}' + ('' if revision == 'main' else f'@{revision}')
    with served(repository(REPOSITORY, content, revision)) as (address, asked):
        hub(address)
        assert read_file(source)['state_dict']['weight'][0] == 7
        assert not any('pytorch_model' in path for path in asked)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert read_file(source)['state_dict']['weight'][0] == 7


def test_a_repository_with_pickled_weights_alone_is_read(hub, tmp_path):
    torch.save(dict(weight=torch.ones(2)), tmp_path / 'a.bin')
    with served(
        repository(REPOSITORY, {'pytorch_model.bin': (tmp_path / 'a.bin').read_bytes()})
    ) as (address, _):
        hub(address)
        assert read_file(f'hf://{REPOSITORY}')['state_dict']['weight'][0] == 1


@pytest.mark.parametrize(
    'source, reason',
    [('hf://org/gone', 'could not be downloaded'), ('hf://org/beit', 'holds no weights')],
)
def test_a_repository_that_is_missing_or_without_weights_is_named(hub, source, reason):
    with served(repository(REPOSITORY, {'config.json': b'{}'})) as (address, _):
        hub(address)
        with pytest.raises(FileNotFoundError, match=rf'{source}.* {reason}'):
            load(source)
