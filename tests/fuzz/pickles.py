"""Random programs in pickle's language: dangerous and harmless names, every opcode that calls or builds.

Where such a program runs, it makes something in the current folder.
"""

import pickle
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from hypothesis import strategies as st

from beit_mm.checkpoint.integrity import add_save_time

Bytes = st.SearchStrategy[bytes]
MARK = 'ran'  # a file or folder that must never appear
DANGEROUS = [
    ('os', 'system'), ('posix', 'system'), ('os', 'mkdir'), ('posix', 'mkdir'), ('builtins', 'eval'), ('builtins', 'exec'),
    ('builtins', 'open'), ('__builtin__', 'open'), ('io', 'open'), ('_io', 'open'), ('pathlib', 'Path.touch'),
    ('pathlib', 'PosixPath'), ('subprocess', 'call'), ('shutil', 'copytree'), ('builtins', 'getattr'),
    ('builtins', '__import__'), ('importlib', 'import_module'), ('operator', 'methodcaller'), ('functools', 'partial'),
    ('torch', 'load'), ('torch', 'save'), ('torch.hub', 'load'), ('torch._utils', '_import_dotted_name'),
    ('torch.nn.modules.module', 'torch.save'), ('torch.nn.modules.module', 'open'), ('numpy', 'fromfile'),
    ('numpy', 'memmap'), ('numpy', 'ndarray'), ('numpy', 'save'), ('mmengine.fileio', 'put_text'),
    ('torch.serialization', 'save'), ('codecs', 'open'), ('numpy.core.multiarray', '_reconstruct'),
]  # fmt: skip
HARMLESS = [
    ('collections', 'OrderedDict'), ('torch._utils', '_rebuild_tensor_v2'), ('torch._utils', '_rebuild_parameter'),
    ('torch', 'FloatStorage'), ('torch', 'device'), ('torch.nn.modules.linear', 'Linear'), ('dall_e.encoder', 'Encoder'),
    ('builtins', 'set'), ('argparse', 'Namespace'), ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    ('numpy', 'dtype'), ('numpy._core.multiarray', 'scalar'), ('_codecs', 'encode'), ('torch', 'Size'),
]  # fmt: skip
# Functions that pickles can call by number, with EXT1, EXT2 and EXT4.
EXTENSIONS = {('os', 'mkdir'): 201, ('os', 'makedirs'): 40_001, ('os', 'mkfifo'): 3_000_001}
FORMS = 'zip', 'dated', 'old', 'bare', 'module'


def text(word: str) -> bytes:
    data = word.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def join(*parts: bytes | Bytes) -> Bytes:
    """Draw and concatenate the parts."""
    return st.tuples(*(st.just(p) if isinstance(p, bytes) else p for p in parts)).map(b''.join)


def name(pair: tuple[str, str]) -> Bytes:
    module, attribute = pair
    by_line = f'c{module}\n{attribute}\n'.encode()  # GLOBAL
    return st.sampled_from([by_line, text(module) + text(attribute) + b'\x93'])  # STACK_GLOBAL


_words = st.sampled_from(
    [MARK, MARK, f'touch {MARK}', f'open({MARK!r}, "w")', 'w', '__dict__', '__setstate__', 'cpu', 'storage']
).map(text)  # fmt: skip
_plain = st.one_of(
    _words,
    st.sampled_from([b'N', b'\x88', b'\x89', b')', b']', b'}', b'K\x01', b'K\x00', b'J\xff\xff\xff\x7f', b'G?\xf0' + bytes(6)]),
    st.sampled_from([b'h\x00', b'h\x07', b'0', b'1', b'(', b't', b'2', b'a', b's', b'e', b'\x94']),  # loose ends
)  # fmt: skip
_numbered = st.sampled_from(
    [b'\x82\xc9', b'\x83' + struct.pack('<H', 40_001), b'\x84' + struct.pack('<i', 3_000_001), b'\x82\x07']
)  # fmt: skip
_bad = st.one_of(st.sampled_from(DANGEROUS).flatmap(name), _numbered)
_name = st.one_of(_bad, st.sampled_from(HARMLESS).flatmap(name))
_installed = st.sampled_from(DANGEROUS).map(lambda pair: 'i{}\n{}\n'.format(*pair).encode())
# A call of something dangerous with the mark, wherever an unpickler allows it: REDUCE, NEWOBJ, OBJ
_attack = st.one_of(
    join(_bad, b'(', _words, b't', st.sampled_from([b'R', b'\x81'])), join(b'(', _bad, _words, b'o')
)


def _compound(inner: Bytes) -> Bytes:
    some = st.lists(inner, max_size=3).map(b''.join)
    arguments, state = join(b'(', some, b't'), join(b'}', inner, inner, b's')
    called = st.one_of(_name, inner)
    return st.one_of(
        arguments,
        state,
        join(b'](', some, b'e'),
        join(called, arguments, st.sampled_from([b'R', b'R', b'\x81'])),
        join(called, arguments, state, b'\x92'),  # NEWOBJ_EX
        join(called, st.one_of(state, arguments, inner), b'b'),  # BUILD
        join(b'(', called, some, b'o'),
        join(b'(', some, _installed),  # INST
        join(inner, b'q\x00'),
        join(inner, b'Q'),
        join(inner, b'0', inner),
    )


_value = st.recursive(st.one_of(_plain, _name, _attack), _compound, max_leaves=12)
programs = join(
    b'\x80',
    st.sampled_from([b'\2', b'\3', b'\4']),
    st.one_of(_value, join(b'}', st.just(text('state_dict')), _value, b's')),
    b'.',
)


def write(path: Path, program: bytes, form: str) -> None:
    """Write a file of torch, new or old, with our comment or without, or the bare pickle."""
    if form == 'bare':
        path.write_bytes(program)
    elif form == 'old':
        system = dict(
            protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4)
        )
        heads = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, system)]
        path.write_bytes(b''.join(heads) + program + pickle.dumps([], 2))
    else:
        good, bad = BytesIO(), BytesIO()
        torch.save(torch.nn.Linear(1, 1) if form == 'module' else dict(a=torch.zeros(1)), good)
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, 'w') as target:
            for each in source.namelist():
                target.writestr(each, program if each.endswith('data.pkl') else source.read(each))
        path.write_bytes(
            b''.join(add_save_time(bad.getvalue())) if form == 'dated' else bad.getvalue()
        )
