"""Several processes without a GPU, started by the scripts that a user calls."""

import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small import read_scalars, run_python
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.config_check.names import refuse_old_names
from beit_mm.engine import cache_tokens, cpu, launch, process_group


@pytest.mark.long
def test_two_gloo_processes_resume_a_run_of_one_process_and_end_with_its_weights(tmp_path):
    one, two, path = tmp_path / 'one', tmp_path / 'two', tmp_path / 'toy.py'
    cfg = toy.config(one, iters=4, interval=2, resume=False)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    for key in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'test_{key}'] = cfg[f'val_{key}']
    env = toy.write_config(cfg, path)

    def call(script: str, *words: object) -> str:
        command = ['bash', f'tools/{script}.sh', path, *words, '--work-dir', two]
        env['PORT'] = str(toy.free_port())
        done = subprocess.run(
            list(map(str, command)), env=env, cwd=toy.ROOT, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout + done.stderr

    alone = toy.start(toy.train, cfg, log=tmp_path / 'log')
    alone.join()
    assert alone.exitcode == 0, (tmp_path / 'log').read_text()
    half = ['--cfg-options', 'train_dataloader.batch_size=1']
    trained = call('dist_train', 2, '--resume', one / 'iter_2.pth', '--force', *half)
    tested = call('dist_test', two / 'iter_4.pth', 1, '--out', two / 'out.pkl')
    assert '2 processes communicate through gloo' in trained and 'iter: 2' in trained
    assert not (two / 'iter_2.pth').exists()
    assert re.search(r'\(test\).* loss: ', tested) and (two / 'out.pkl').exists()
    expected, found = (read_file(folder / 'iter_4.pth')['state_dict'] for folder in (one, two))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# -- process group

LAUNCHERS = dict(
    slurm=dict(SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NTASKS='1'),
    mpi={f'OMPI_COMM_WORLD_{name}': n for name, n in dict(RANK=0, LOCAL_RANK=0, SIZE=1).items()},
)


@pytest.mark.parametrize('launcher', LAUNCHERS)
def test_the_variables_of_other_launchers_make_a_process_group(launcher, monkeypatch):
    variables = dict(RANK=7, LOCAL_RANK=7, WORLD_SIZE=8, MASTER_ADDR='127.0.0.1', MASTER_PORT=0)
    for name, value in (variables | LAUNCHERS[launcher]).items():
        monkeypatch.setenv(name, str(value))
    process_group.join(launcher, 'gloo', timeout=300)
    try:
        assert torch.distributed.get_world_size() == 1 and os.environ['LOCAL_RANK'] == '0'
    finally:
        torch.distributed.destroy_process_group()


def test_every_slurm_step_has_its_own_port(monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')  # to restore what set_ranks changes
    for name in ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    ports = set()
    for job, step in ((7, 0), (7, 1), (8, 0)):
        monkeypatch.delenv('MASTER_PORT')
        monkeypatch.setenv('SLURM_JOB_ID', str(job))
        monkeypatch.setenv('SLURM_STEP_ID', str(step))
        process_group.set_ranks('slurm')
        ports.add(int(os.environ['MASTER_PORT']))
    assert len(ports) == 3 and all(20_000 < port < 32_768 for port in ports)


@pytest.mark.parametrize(('variable', 'rank'), [('RANK', 0), ('RANK', 1), ('SLURM_PROCID', 1)])
def test_only_rank_0_prints_the_warnings_of_imports(variable, rank, monkeypatch):
    code = """if True:
        import runpy, sys, warnings
        sys.argv = ['train.py', '--help']
        try:
            runpy.run_path('tools/train.py', run_name='__main__')
        except SystemExit:
            warnings.warn('of a library', FutureWarning)
    """
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(rank))
    done = run_python(code)
    assert done.returncode == 0 and 'usage: python tools/train.py' in done.stdout
    assert ('Warning' in done.stderr) is (rank == 0), done.stderr


def test_a_config_that_does_not_exist_is_named():
    with pytest.raises(SystemExit, match=r'error: none\.py not found: expected a config'):
        launch.read_config(launch.make_run_parser('').parse_args(['none.py']))
    with pytest.raises(SystemExit, match=r'python tools/test\.py --tta` replaces it'):
        launch.read_config(launch.make_run_parser('').parse_args(['none_ms.py']))


OLD_NAMES = {
    "custom_hooks = [dict(type='GuardData')]": "GuardData': this class was renamed: write 'CheckSa",
    "x = dict(type='beit_mm.RandomMask', budget=9)": "renamed: write 'num_masked'",  # codespell:ignore
    "model = dict(head=dict(type='beit_mm.MIMHead', init_cfg=None))": 'argument was removed',
    "x = dict(type='beit_mm.DiscreteVAE', likelihood='l1')": 'argument was removed',
    "x = dict(save_best=['tokenizer/codes'])": "write 'tokenizer/vocab_size'",
    "x = dict(data_src='rss')": "write 'peak_rss_mib'",
}


@pytest.mark.parametrize(('text', 'message'), OLD_NAMES.items())
def test_an_old_name_stops_every_command(text, message, tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(f"default_scope = 'beit_mm'\n{text}\n")
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        launch.read_config(launch.make_run_parser('').parse_args([str(path)]))
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        cache_tokens.main([str(path), '--out', str(tmp_path / 'out')])


def test_an_option_that_sets_a_variable_of_the_config_is_refused(tmp_path):
    """The values that were computed with the variable would stay."""
    path = tmp_path / 'a.py'
    path.write_text('epochs = 9\ntrain_cfg = dict(max_epochs=epochs)\nresume = False\n')

    def read(option: str) -> Config:
        words = [str(path), '--cfg-options', option]
        return launch.read_config(launch.make_run_parser('').parse_args(words))

    with pytest.raises(SystemExit, match='epochs=… would change nothing'):
        read('epochs=2')
    assert read('train_cfg.max_epochs=2').train_cfg.max_epochs == 2
    assert read('resume=True').resume is True and read('new=1').new == 1


def test_a_class_of_the_user_may_have_old_arguments(tmp_path):
    @HOOKS.register_module(name='Probe', force=True)
    class Probe(Hook):
        pass

    try:
        refuse_old_names(dict(custom_hooks=[dict(type='mmengine.Probe', images=3)]))
    finally:
        HOOKS.module_dict.pop('Probe')


@pytest.mark.parametrize(
    ('settings', 'library'),
    [
        (dict(default_scope='mmdet'), 'mmdet'),
        (dict(train_dataloader=dict(dataset=dict(type='mmpretrain.CustomDataset'))), 'mmpretrain'),
        (dict(model=dict(_scope_='mmseg', type='EncoderDecoder')), 'mmseg'),
    ],
)
def test_a_config_that_needs_a_missing_library_says_how_to_install_it(
    settings, library, tmp_path, monkeypatch
):
    """Before other checks, which would call every class of the library a mistake."""
    (tmp_path / 'a.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in settings.items()))
    for name in ('mmpretrain', 'mmseg', 'mmdet'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'{library} is not installed.*\n  pip install'):
        launch.read_config(launch.make_run_parser('').parse_args([str(tmp_path / 'a.py')]))


def test_the_timeout_of_collectives_is_the_configs():
    assert process_group.collective_timeout(Config(dict(env_cfg=None))) == 1800
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=7))))
    assert process_group.collective_timeout(cfg) == 7


def test_a_launcher_without_its_variables_says_how_to_start(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    words = r'--launcher slurm needs .*SLURM_PROCID.*tools/slurm_train.sh'
    with pytest.raises(ValueError, match=words):
        process_group.join('slurm')


# -- build_runner


@pytest.mark.parametrize(
    'visualizer',
    [
        dict(type='Visualizer'),
        dict(type='Visualizer', name='visualizer', vis_backends=None),
        dict(type='Visualizer', vis_backends=[dict(type='mmengine.LocalVisBackend')]),
        dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend', save_dir='elsewhere')]),
        dict(
            type='Visualizer',
            vis_backends=[dict(type='LocalVisBackend', scalar_save_file='other.json')],
        ),
        dict(type='Visualizer', save_dir='elsewhere', vis_backends=[dict(type='LocalVisBackend')]),
        dict(type='Visualizer', save_dir='elsewhere'),
    ],
)
def test_every_run_keeps_the_log_that_reports_are_made_from(visualizer, tmp_path, monkeypatch):
    """Also with settings of None, for which mmengine has defaults."""
    monkeypatch.chdir(tmp_path)
    cfg = toy.config(tmp_path / 'run', iters=1)
    name = f'log_{tmp_path.name}'
    cfg.update(visualizer=visualizer, experiment_name=name)
    cfg.update(env_cfg=None, randomness=None, log_processor=None)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    launch.build_runner(cfg).train()
    assert any('loss' in line for line in read_scalars(tmp_path / 'run'))


# -- without a GPU


@pytest.mark.parametrize(
    ('bfloat16', 'kind'), [(True, 'beit_mm.CPUAmpOptimWrapper'), (False, 'OptimWrapper')]
)
def test_mixed_precision_is_bfloat16_on_a_cpu_that_has_it(bfloat16, kind, monkeypatch):
    monkeypatch.setattr(cpu, 'has_bfloat16', lambda: bfloat16)
    wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='SGD', lr=1.0))
    target = dict(type='TokenTarget', dtype='float16')
    model = dict(type='BEiTPretrainer', target=target)
    cfg = Config(dict(optim_wrapper=wrapper, model=model))
    precision, tokens = cpu.adapt_to_cpu(cfg)
    assert ('bfloat16 without' if bfloat16 else 'full precision') in precision
    assert cfg.optim_wrapper == dict(type=kind, optimizer=dict(type='SGD', lr=1.0))
    assert cfg.model.target.dtype == ('bfloat16' if bfloat16 else 'float32')
    assert tokens == f'visual tokens are computed in {cfg.model.target.dtype}'


def test_mixed_precision_on_a_cpu_is_autocast():
    model = torch.nn.Linear(2, 2)
    wrapper = cpu.CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    assert model(torch.ones(1, 2)).dtype == torch.float32


def test_every_sync_bn_becomes_bn_and_the_users_settings_of_ddp_stay():
    norm = dict(type='SyncBN', requires_grad=True)
    heads = [dict(norm_cfg=dict(norm, type='mmcv.SyncBN'))]
    model = dict(backbone=dict(norm_cfg=dict(norm)), heads=heads)
    ddp = dict(find_unused_parameters=True)
    cfg = Config(dict(launcher='pytorch', model=model, model_wrapper_cfg=ddp))
    cpu.adapt_to_cpu(cfg)
    assert 'Sync' not in cfg.pretty_text
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert cfg.model_wrapper_cfg == dict(find_unused_parameters=True, device_ids=None)


# -- command line


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('data/quick start', 'data/quick start'),
        ('"data/quick start"', 'data/quick start'),
        ('data/copy (2)', 'data/copy (2)'),
        ('[1, 2.5, None]', [1, 2.5, None]),
        ("[ (1, 2), ['a b', c] ]", [(1, 2), ['a b', 'c']]),
        ('1, 2', [1, 2]),
        (' 3 ', 3),
    ],
)
def test_blanks_inside_the_values_of_options_are_kept(given, expected):
    args = launch.make_run_parser('').parse_args(['config.py', '--cfg-options', f'key={given}'])
    assert args.cfg_options == dict(key=expected)
