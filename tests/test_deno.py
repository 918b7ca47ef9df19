"""The JavaScript runtime as yt-dlp starts it, through our wrapper: a site's script reaches no network and no file."""

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from yt_dlp.extractor.youtube.jsc._builtin.deno import DenoJCP

from tests.opening import Watch
from ytdl.fetcher import Fetcher, Settings
from ytdl.fetcher.tools import find_deno, write_wrapper

OPTIONS = [*DenoJCP._DENO_BASE_OPTIONS, "--no-npm", "--cached-only"]
DATA = "data:text/javascript,"
REACHING = {
    "fetch": "await fetch('{http}')",
    "a socket": "await Deno.connect({port: {port}, hostname: '127.0.0.1'})",
    "UDP": "Deno.listenDatagram({port: 0, transport: 'udp'})",
    "listening": "Deno.listen({port: 0})",
    "a WebSocket": "await new Promise((yes, no) => { const w = new WebSocket('ws://127.0.0.1:{port}/');"
    " w.onopen = yes; w.onerror = no })",
    "events": "await new Promise((yes, no) => { const e = new EventSource('{http}'); e.onopen = yes; e.onerror = no })",
    "Node's net": "await new Promise((yes, no) => import('node:net').then("
    "n => n.default.connect({port}, '127.0.0.1', yes).on('error', no)))",
    "Node's http": "await new Promise((yes, no) => import('node:http').then("
    "n => n.default.get('{http}', yes).on('error', no)).catch(no))",
    "a remote module": "await import('{http}x.js')",
    "a remote module in a module": f"await import('{DATA}import \"{{http}}x.js\"')",
    "a package": "await import('npm:left-pad')",
    "a worker's fetch": f'await new Promise((yes, no) => {{ const w = new Worker(\'{DATA}await fetch("{{http}}");'
    " postMessage(1)', {type: 'module'}); w.onmessage = yes; w.onerror = e => { e.preventDefault(); no(e) } })",
    "a remote worker": "await new Promise((yes, no) => { const w = new Worker('{http}w.js', {type: 'module'});"
    " w.onmessage = yes; w.onerror = e => { e.preventDefault(); no(e) } })",
    "a lookup": "await Deno.resolveDns('localhost', 'A')",
    "reading": "Deno.readTextFileSync('{file}')",
    "reading as Node": "(await import('node:fs')).readFileSync('{file}')",
    "fetching a file": "await fetch('file://{file}')",
    "a file as a module": "await import('file://{file}')",
    "a file as text": "await import('file://{file}', {with: {type: 'text'}})",
    "a file as JSON": "await import('file://{file}', {with: {type: 'json'}})",
    "a file in a module": f'await import(\'{DATA}import x from "file://{{file}}" with {{type: "text"}}\')',
    "requiring a file": "(await import('node:module')).createRequire('file:///x.js')('{file}')",
    "a file as a database": "new (await import('node:sqlite')).DatabaseSync('{file}')",
    "writing": "Deno.writeTextFileSync('{file}', 'x')",
    "the environment": "Deno.env.toObject()",
    "a program": "await new Deno.Command('/bin/true').output()",
    "a program as Node": "(await import('node:child_process')).execFileSync('/bin/true')",
    "a library": "Deno.dlopen('libc.so.6', {getpid: {parameters: [], result: 'i32'}})",
    "a signal": "Deno.kill(1, 'SIGTERM')",
    "asking for more": "(await Deno.permissions.request({name: 'net'})).state === 'granted' || nothing()",
    "keeping a value": "localStorage.setItem('a', 'b')",
    "keeping an answer": "await (await caches.open('a')).put('http://a/', new Response('b'))",
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], str]:
    """Gives a script to deno in the environment of jobs; what it prints."""
    deno = write_wrapper(tmp_path, "deno", find_deno() or "")
    environment = Fetcher(Settings(tmp_path / "runtime"))._environment()

    def run_(code: str) -> str:
        command = [deno, "run", *OPTIONS, "-"]
        done = subprocess.run(
            command, check=False, input=code, env=environment, text=True, capture_output=True, timeout=20
        )
        return done.stdout.strip() or done.stderr.strip()

    return run_


@pytest.fixture
def door() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def as_yt_dlp_evaluates(code: str) -> str:
    """A player's script is made a function of: it is no module of its own, whose imports deno would read unasked."""
    body = json.dumps(f"return (async () => ({code}))()")
    report = "console.log('reached') } catch (error) { console.log('refused', error?.message) }"
    return f"try {{ await Function({body})(); {report}; Deno.exit(0)"


@pytest.mark.parametrize("name", REACHING)
def test_a_script_of_a_site_reaches_nothing(
    run: Callable[[str], str], door: socket.socket, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret.js"
    secret.write_text("export default 1")
    watch = Watch(secret)
    code = REACHING[name]
    port = door.getsockname()[1]
    for word, value in {"http": f"http://127.0.0.1:{port}/", "port": str(port), "file": str(secret)}.items():
        code = code.replace("{" + word + "}", value)
    said = run(as_yt_dlp_evaluates(code))
    opened = watch.was_opened()
    watch.close()
    assert said.startswith("refused") and not opened
    with pytest.raises(BlockingIOError):
        door.accept()


def test_a_script_runs_and_leaves_nothing_behind(run: Callable[[str], str], tmp_path: Path) -> None:
    assert run("console.log(6 * 7)") == "42"
    assert run(as_yt_dlp_evaluates("1")) == "reached"
    assert not list(tmp_path.rglob(".cache"))
