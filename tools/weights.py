"""The published weights of BEiT and its relatives (`beit_mm/checkpoint/published.yml`).

python tools/weights.py list     name, kind, published figure and address of each
python tools/weights.py check    ask each address whether it still answers (--offline asks none)
python tools/weights.py write    renew the metafiles and the table of docs/models.md from the list
"""

import os
import sys
from http.client import HTTPException
from urllib.request import Request, urlopen

from command_line import make_parser
from published.pages import ROOT, figures_text, written

from beit_mm.checkpoint.download import HUB
from beit_mm.checkpoint.published import published


def answers(address: str) -> str | None:
    """Ask for the head of a file. Return why it cannot be had, or None."""
    if address.startswith(HUB):
        endpoint = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
        address = f'{endpoint}/api/models/{address.removeprefix(HUB)}'
    request = Request(address, method='HEAD', headers={'User-Agent': 'beit_mm'})
    try:
        with urlopen(request, timeout=30):
            return None
    except (OSError, HTTPException) as error:
        return f'{type(error).__name__} {error}'


def check_addresses(offline: bool) -> int:
    addresses = set()
    for entry in published().values():
        addresses |= {entry['address'], *entry.get('also', ())}
    if offline:
        print(f'{len(addresses)} addresses were not asked (--offline)')
        return 0
    failed = 0
    for address in sorted(addresses):
        reason = answers(address)
        failed += reason is not None
        print(f'{reason or "ok"}: {address}', flush=True)
    print(f'{len(addresses) - failed} of {len(addresses)} addresses answer')
    return int(failed > 0)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument('command', choices=['list', 'check', 'write'])
    parser.add_argument('--offline', action='store_true', help='ask no address')
    args = parser.parse_args(argv)
    if args.command == 'check':
        return check_addresses(args.offline)
    if args.command == 'write':
        for path, text in written().items():
            path.write_text(text, encoding='utf-8')
            print(f'wrote {path.relative_to(ROOT)}')
        return 0
    for name, entry in published().items():
        about = '; '.join(filter(None, [f'{entry["family"]} {entry["kind"]}', figures_text(entry)]))
        print(f'{name}  ({about})\n    {entry["address"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
