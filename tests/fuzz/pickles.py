"""Programs in pickle's language, drawn at random: names dangerous and harmless, every opcode that calls or builds, loose ends."""

import pickle
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from hypothesis import strategies as st

from beit_mm.checkpoint.integrity import add_save_time

MARK = '@mark@'  # stands for a file that must never appear; as long as what replaces it, since lengths are written before
LENGTH = 96
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
EXTENSIONS = {
    ('os', 'mkdir'): 201,
    ('os', 'makedirs'): 40_001,
    ('os', 'mkfifo'): 3_000_001,
}  # of EXT1, EXT2, EXT4


def text(word: str) -> bytes:
    data = word.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def name(pair: tuple[str, str]) -> st.SearchStrategy[bytes]:
    module, attribute = pair
    return st.sampled_from(
        [f'c{module}\n{attribute}\n'.encode(), text(module) + text(attribute) + b'\x93']
    )


_words = st.sampled_from(
    [
        MARK,
        MARK,
        f'touch {MARK}',
        f'open({MARK!r}, "w")',
        'w',
        '__dict__',
        '__setstate__',
        'cpu',
        'storage',
    ]
)
_plain = st.one_of(
    _words.map(text),
    st.sampled_from(
        [
            b'N',
            b'\x88',
            b'\x89',
            b')',
            b']',
            b'}',
            b'K\x01',
            b'K\x00',
            b'J\xff\xff\xff\x7f',
            b'G?\xf0' + bytes(6),
        ]
    ),
    st.sampled_from(
        [b'h\x00', b'h\x07', b'0', b'1', b'(', b't', b'2', b'a', b's', b'e', b'\x94']
    ),  # loose ends
)
_numbered = st.sampled_from(
    [
        b'\x82\xc9',
        b'\x83' + struct.pack('<H', 40_001),
        b'\x84' + struct.pack('<i', 3_000_001),
        b'\x82\x07',
    ]
)
_bad = st.one_of(st.sampled_from(DANGEROUS).flatmap(name), _numbered)
_name = st.one_of(_bad, st.sampled_from(HARMLESS).flatmap(name))


def _compound(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    some = st.lists(inner, max_size=3).map(b''.join)
    arguments = some.map(lambda items: b'(' + items + b't')
    state = st.tuples(inner, inner).map(lambda kv: b'}' + b''.join(kv) + b's')
    called = st.one_of(_name, inner)
    return st.one_of(
        arguments,
        state,
        some.map(lambda items: b'](' + items + b'e'),
        st.tuples(called, arguments).map(lambda parts: b''.join(parts) + b'R'),
        st.tuples(called, arguments).map(lambda parts: b''.join(parts) + b'R'),
        st.tuples(called, arguments).map(lambda parts: b''.join(parts) + b'\x81'),
        st.tuples(called, arguments, state).map(lambda parts: b''.join(parts) + b'\x92'),
        st.tuples(called, st.one_of(state, arguments, inner)).map(
            lambda parts: b''.join(parts) + b'b'
        ),
        st.tuples(called, some).map(lambda parts: b'(' + b''.join(parts) + b'o'),
        st.tuples(some, st.sampled_from(DANGEROUS)).map(
            lambda parts: b'(' + parts[0] + f'i{parts[1][0]}\n{parts[1][1]}\n'.encode()
        ),
        inner.map(lambda item: item + b'q\x00'),
        inner.map(lambda item: item + b'Q'),
        st.tuples(inner, inner).map(lambda parts: parts[0] + b'0' + parts[1]),
    )


# What surely calls something dangerous with the mark, wherever an unpickler lets it.
_attack = st.tuples(_bad, _words.map(text), st.sampled_from([b'R', b'\x81', b'o'])).map(
    lambda parts: (
        b'(' + parts[0] + parts[1] + b'o'
        if parts[2] == b'o'
        else parts[0] + b'(' + parts[1] + b't' + parts[2]
    )
)
_value = st.recursive(st.one_of(_plain, _name, _attack), _compound, max_leaves=12)
programs = st.tuples(st.sampled_from([2, 3, 4]), _value, st.booleans()).map(
    lambda drawn: (
        b'\x80'
        + bytes([drawn[0]])
        + (b'}' + text('state_dict') + drawn[1] + b's' if drawn[2] else drawn[1])
        + b'.'
    )
)


def marked(program: bytes, mark: Path) -> bytes:
    """The program with the file's name in it, whose texts have other lengths then."""
    out, place, end = b'', 0, len(program)
    while (at := program.find(b'X', place, end)) >= 0:
        (length,) = struct.unpack('<I', program[at + 1 : at + 5].ljust(4, b'\0'))
        words = program[at + 5 : at + 5 + length]
        if MARK.encode() not in words or length > LENGTH:
            out, place = out + program[place : at + 1], at + 1
            continue
        out += program[place:at] + text(words.decode().replace(MARK, str(mark)))
        place = at + 5 + length
    return out + program[place:]


FORMS = 'zip', 'dated', 'old', 'bare', 'module'


def write(path: Path, program: bytes, form: str) -> None:
    """A file of torch's, new or old, with our comment or not, or the bare pickle, with this program in it."""
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
