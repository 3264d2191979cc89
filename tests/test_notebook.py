"""docs/quickstart.ipynb runs as it is, with few images and few steps."""

import os
import re
import shutil
import sys

import nbformat
import pages
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

PATH = pages.ROOT / 'docs/quickstart.ipynb'
STAGES = dict(tokenizer='codes_used', pretrain='mim/val_loss', classification='accuracy/top1')
SHORT = "\nupload, train, val, iters = 'pets.zip', 24, 4, 4"


def read() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


@pytest.fixture
def executed(tmp_path, monkeypatch) -> nbformat.NotebookNode:
    """Run the notebook in an empty folder with a zip file of class folders."""
    shapes.draw_dataset(
        tmp_path / 'drawn', 40, 1, size=48, segmentation_train=1, segmentation_val=1, jobs=1
    )
    (tmp_path / 'drawn/imagenet/train').rename(tmp_path / 'pets')
    shutil.rmtree(tmp_path / 'drawn')
    shutil.make_archive(tmp_path / 'pets', 'zip', tmp_path, 'pets')
    shutil.rmtree(tmp_path / 'pets')
    path = os.pathsep.join([str(pages.ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    monkeypatch.setenv('PYTHONPATH', path)

    notebook = read()
    for cell in notebook.cells:
        if 'parameters' in cell.metadata.get('tags', ()):
            cell.source += SHORT
    kernel = KernelManager(kernel_name='python3')
    kernel.kernel_spec.argv[0] = sys.executable
    resources = dict(metadata=dict(path=str(tmp_path)))
    NotebookClient(
        notebook, km=kernel, timeout=600, startup_timeout=600, resources=resources
    ).execute()
    return notebook


def printed(cell: nbformat.NotebookNode) -> str:
    return ''.join(output.get('text', '') for output in cell.outputs)


def test_the_notebook_trains_all_stages_and_shows_its_pages(executed, tmp_path):
    cells = {cell.source.split('\n')[-1]: cell for cell in executed.cells if 'outputs' in cell}
    trained = {name: printed(cells[f"run('beit-mm train {name}.py')"]) for name in STAGES}
    for name, key in STAGES.items():
        assert 'Iter(val)' in trained[name] and key in trained[name]
        assert 'iters = 4' in (tmp_path / f'{name}.py').read_text()
    for name, start in dict(pretrain='tokenizer', classification='pretrain').items():
        assert re.search(rf'work_dirs/{start}\S*, written by beit_mm', trained[name])
    for page in ('tokens', 'attention'):
        assert 'iframe' in cells[f"show('{page}.html')"].outputs[-1].data['text/html']
    *_, last = executed.cells[:-1]
    assert re.search(r'pets/n0000000\d/.*: n0000000\d', last.outputs[-1].data['text/plain'])
    assert any('image/png' in output.get('data', ()) for output in last.outputs)


def test_the_notebook_is_readable_without_outputs_or_stale_links():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get('outputs') and not cell.get('execution_count')
        assert len(cell.source.splitlines()) <= 32
        for link in re.findall(r'\]\((\w+\.md)\)', cell.source):
            assert (PATH.parent / link).is_file()
