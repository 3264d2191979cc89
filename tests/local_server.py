"""A server on this machine for tests of downloads."""

import hashlib
import http.server
import threading
from collections import Counter
from contextlib import contextmanager

COMMIT = '0123456789abcdef0123456789abcdef01234567'  # of all files


@contextmanager
def served(files: dict[str, bytes], announced: int = 0):
    """Serve `files` by path; yield the address, and how often each was fetched.

    The server says that each file is `announced` bytes longer than it is.
    """
    fetched = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path, b'')
            fetched[self.path] += self.command == 'GET'
            self.send_response(200 if self.path in files else 404)
            if self.path not in files:
                missing = 'RepoNotFound' if 'gone' in self.path else 'EntryNotFound'
                self.send_header('X-Error-Code', missing)
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
        yield f'http://127.0.0.1:{server.server_port}', fetched
        server.shutdown()
