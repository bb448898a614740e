"""Downloads from a server that stalls, cuts off, lies and changes its mind; archives that want out."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from openmm_mlbench.cli import main
from openmm_mlbench.data.datasets import load_dataset
from openmm_mlbench.data.download import Patience
from openmm_mlbench.data.fetch import OfficialFile, fetch, find_official
from openmm_mlbench.data.unpack import unpack
from openmm_mlbench.errors import DataError

QUICK = Patience(stall_s=0.5, stall_bytes=64, attempts=3, progress_bytes=1000, first_wait_s=0.01)
CONTENT = b"PK" + np.random.Generator(np.random.PCG64(0)).bytes(300_000)
OTHER = b"PK" + np.random.Generator(np.random.PCG64(1)).bytes(300_000)


def md5(data):
    return f"md5:{hashlib.md5(data).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Answers with the behaviours in ``script``, one per request; the last one stays."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.script, self.requests = CONTENT, ["whole"], []
        self.etag, self.content_type, self.extra = '"v1"', "application/octet-stream", {}
        self.release = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        behaviour = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        getattr(self, f"play_{behaviour.split()[0]}")(*behaviour.split()[1:])

    def head(self, status, length=None, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Type", self.server.content_type)
        for key, value in {**self.server.extra, **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def wanted(self, honour_if_range=True):
        """Status and place where the answer begins, by Range and If-Range."""
        wanted = self.headers.get("Range")
        if not wanted:
            return 200, 0
        if honour_if_range and self.headers.get("If-Range") not in {None, self.server.etag}:
            return 200, 0
        return 206, int(wanted.removeprefix("bytes=").split("-")[0])

    def play_whole(self, honour_if_range=True):
        status, start = self.wanted(honour_if_range)
        data = self.server.content[start:]
        headers = {}
        if status == 206:
            size = len(self.server.content)
            headers = {"Content_Range": f"bytes {start}-{size - 1}/{size}"}
        self.head(status, len(data), **headers)
        self.wfile.write(data)

    def play_careless(self):
        self.play_whole(honour_if_range=False)

    def play_rangeless(self):
        self.head(200, len(self.server.content))
        self.wfile.write(self.server.content)

    def play_cut(self, count):
        status, start = self.wanted()
        size = len(self.server.content)
        headers = {"Content_Range": f"bytes {start}-{size - 1}/{size}"} if status == 206 else {}
        self.head(status, size - start, **headers)
        self.wfile.write(self.server.content[start : start + int(count)])
        self.close_connection = True

    def play_rangeless_cut(self, count):
        self.head(200, len(self.server.content))
        self.wfile.write(self.server.content[: int(count)])
        self.close_connection = True

    def play_stall(self, count):
        self.head(200, len(self.server.content))
        self.wfile.write(self.server.content[: int(count)])
        self.wfile.flush()
        self.server.release.wait(300)
        self.close_connection = True

    def play_trickle(self):
        self.head(200, len(self.server.content))
        for place in range(6000):
            self.wfile.write(self.server.content[place : place + 1])
            self.wfile.flush()
            if self.server.release.wait(0.05):
                return

    def play_silent(self):
        self.server.release.wait(300)
        self.close_connection = True

    def play_hangup(self):
        self.close_connection = True

    def play_status(self, code, after=None):
        self.head(int(code), 0, **({"Retry_After": after} if after else {}))

    def play_redirect(self, target):
        self.head(302, 0, Location=target)

    def play_endless(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)
        self.close_connection = True

    def play_chunked(self, finish="yes"):
        self.head(200, Transfer_Encoding="chunked")
        data = self.server.content
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if finish == "yes":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def play_shifted(self):
        size = len(self.server.content)
        self.head(206, size, Content_Range=f"bytes 0-{size - 1}/{size}")
        self.wfile.write(self.server.content)

    def play_record(self):
        record = {"files": [{"key": "data.npz", "size": len(CONTENT), "checksum": md5(CONTENT)}]}
        text = json.dumps(record).encode()
        self.head(200, len(text))
        self.wfile.write(text)


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "MLBENCH_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.release.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def get(server, tmp_path):
    """Fetch from the server; returns the bytes that lie in the cache, and keeps what was said."""

    def call(*, force=False, urls=None, mirror=None, patience=QUICK, **known):
        official = OfficialFile(
            name="toy",
            filename=known.pop("filename", "data.npz"),
            urls=urls or (f"{server.url}/data.npz",),
            origin="here",
            licence="none",
            **known,
        )
        result = fetch(
            official, tmp_path, force=force, mirror=mirror, patience=patience, note=call.said.append
        )
        call.result = result
        return result.files[0].read_bytes()

    call.said = []
    call.folder = tmp_path / "toy"
    return call


def leftovers(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


# --- the ordinary way -----------------------------------------------------------------------------


def test_first_checksum_is_kept_and_compared(server, get):
    assert get() == CONTENT
    assert get.result.fresh
    assert "no checksum of data.npz is published" in get.result.notes[0]
    assert leftovers(get.folder) == {"data.npz", "fetched.json"}
    record = json.loads((get.folder / "fetched.json").read_text())
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (record["size"], record["checksum_source"]) == (len(CONTENT), "first seen")
    # There already: no request is made.
    assert get() == CONTENT
    assert not get.result.fresh
    assert len(server.requests) == 1
    # The same again with --force.
    assert get(force=True) == CONTENT
    server.content, server.etag = OTHER, '"v2"'
    with pytest.raises(DataError, match="the new file was thrown away; if it is the right one, delete"):
        get(force=True)
    assert (get.folder / "data.npz").read_bytes() == CONTENT
    (get.folder / "fetched.json").unlink()
    assert get(force=True) == OTHER


def test_published_checksum(get, server):
    assert get(checksum=md5(CONTENT), size=len(CONTENT)) == CONTENT
    assert get.result.notes == ()
    server.content = OTHER
    with pytest.raises(DataError, match=r"md5 is .* published is .* run it again"):
        get(checksum=md5(CONTENT), size=len(CONTENT), force=True)
    assert (get.folder / "data.npz").read_bytes() == CONTENT
    assert leftovers(get.folder) == {"data.npz", "fetched.json"}


def test_checksum_of_a_zenodo_record(get, server):
    server.script = ["record", "whole"]
    assert get(record_url=f"{server.url}/record") == CONTENT
    record = json.loads((get.folder / "fetched.json").read_text())
    assert (record["checksum_source"], record["published"]) == ("published", md5(CONTENT))
    server.script, server.content = ["record", "whole"], OTHER
    with pytest.raises(DataError, match="published is"):
        get(record_url=f"{server.url}/record", force=True)
    # A record that cannot be had is no obstacle, and is spoken of.
    server.script, server.content = ["status 500", "whole"], CONTENT
    assert get(record_url=f"{server.url}/record", force=True) == CONTENT
    assert any("tells no size and checksum" in line for line in get.said)


def test_damage_on_disk_is_seen(get):
    get()
    (get.folder / "data.npz").write_bytes(OTHER)
    with pytest.raises(DataError, match=r"differs from what was fetched on .* with --force"):
        get()
    assert get(force=True) == CONTENT


def test_file_put_there_by_hand(get, server):
    get.folder.mkdir()
    (get.folder / "data.npz").write_bytes(CONTENT)
    assert get() == CONTENT
    assert server.requests == []
    assert "was not fetched by this command" in get.result.notes[0]
    (get.folder / "fetched.json").unlink()
    with pytest.raises(DataError, match=r"published is"):
        get(checksum=md5(OTHER))


def test_damaged_record(get):
    get()
    for text in ("{", "[]", '{"files": 3}'):
        (get.folder / "fetched.json").write_text(text)
        with pytest.raises(Exception, match=r"fetched.json") as caught:
            get()
        assert isinstance(caught.value, DataError) or "not valid JSON" in str(caught.value)


# --- poor lines -----------------------------------------------------------------------------------


def test_resumed_after_every_cut(get, server):
    server.script = ["cut 100000", "cut 100000", "whole"]
    assert get() == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert all(headers["If-Range"] == '"v1"' for _, headers in server.requests[1:])


def test_resumed_by_the_next_command(get, server):
    server.script = ["cut 200000", "status 503"]
    with pytest.raises(DataError, match=r"503 .* given up after 3 attempts, 200,000 bytes are kept"):
        get()
    assert leftovers(get.folder) == {".data.npz.part", ".data.npz.part.json"}
    server.script = ["whole"]
    assert get() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=200000-"
    assert leftovers(get.folder) == {"data.npz", "fetched.json"}


@pytest.mark.parametrize("behaviour", ["stall 100000", "trickle", "silent"])
def test_stalled_connections_are_given_up(get, server, behaviour):
    server.script = [behaviour, "whole"]
    started = time.monotonic()
    assert get() == CONTENT
    assert time.monotonic() - started < 60
    assert any("sends nothing" in line or "leads nowhere" in line for line in get.said)


def test_patience_ends(get, server):
    server.script = ["silent"]
    with pytest.raises(DataError, match=r"sends nothing for 0.5 s; given up after 3 attempts"):
        get()
    assert len(server.requests) == 3


def test_small_steps_forward_do_not_last_for_ever(get, server):
    """Every attempt brings 10 bytes: that is no progress."""
    server.script = ["cut 10"]
    with pytest.raises(DataError, match="given up after 3 attempts, 30 bytes are kept"):
        get()


def test_large_steps_forward_may_be_many(get, server):
    server.script = ["cut 20000"] * 14 + ["whole"]
    assert get() == CONTENT


def test_server_that_cannot_resume(get, server):
    server.script = ["cut 100000", "rangeless"]
    assert get() == CONTENT
    assert any("cannot resume; starting over" in line for line in get.said)


def test_server_that_cannot_resume_and_always_cuts(get, server):
    server.script = ["rangeless_cut 100000"]
    with pytest.raises(DataError, match="closed after 100,000 of 300,002 bytes; given up"):
        get()


@pytest.mark.parametrize("resumes", ["whole", "careless"])
def test_file_that_changes_between_attempts(get, server, resumes):
    """Never half of one file and half of another, also where If-Range is ignored."""
    server.script = ["cut 100000", "status 503", "status 503", "status 503", resumes]
    with pytest.raises(DataError):
        get()
    server.content, server.etag = OTHER, '"v2"'
    assert get() == OTHER


def test_changed_size_is_seen_without_any_validator(get, server):
    server.etag = None
    server.script = ["cut 100000", "careless"]
    # With a published checksum to compare in the end, the part is used though nothing vouches for it.
    assert get(checksum=md5(CONTENT), size=len(CONTENT)) == CONTENT
    assert server.requests[1][1]["Range"] == "bytes=100000-"


def test_without_validator_and_checksum_nothing_is_resumed(get, server):
    server.etag = None
    server.script = ["cut 100000", "careless"]
    assert get() == CONTENT
    assert "Range" not in server.requests[1][1]


def test_last_modified_is_a_validator_too(get, server):
    server.etag, server.extra = None, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.script = ["cut 100000", "careless"]
    assert get() == CONTENT
    assert server.requests[1][1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_weak_tags_prove_nothing(get, server):
    server.etag = 'W/"v1"'
    server.script = ["cut 100000", "careless"]
    assert get() == CONTENT
    assert "Range" not in server.requests[1][1]


def test_whole_part_is_not_asked_for_again(get, server):
    server.script = ["cut 300002"]
    get.folder.mkdir()
    (get.folder / ".data.npz.part").write_bytes(CONTENT)
    state = {"url": f"{server.url}/data.npz", "validator": '"v1"', "size": len(CONTENT)}
    (get.folder / ".data.npz.part.json").write_text(json.dumps(state))
    assert get(size=len(CONTENT)) == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("state", ["{", "[]", "{}", '{"url": 1, "validator": 2, "size": "x"}', None])
def test_part_of_unknown_origin_is_dropped(get, state):
    get.folder.mkdir()
    (get.folder / ".data.npz.part").write_bytes(OTHER[:1000])
    if state is not None:
        (get.folder / ".data.npz.part.json").write_text(state)
    assert get() == CONTENT


def test_server_that_sends_another_range(get, server):
    server.script = ["cut 100000", "shifted", "whole"]
    assert get() == CONTENT
    assert any("another part than asked for" in line for line in get.said)


def test_hang_ups_and_temporary_errors(get, server):
    server.script = ["hangup", "status 429 0", "whole"]
    assert get() == CONTENT
    assert any("429" in line for line in get.said)


def test_nobody_listens(get, server):
    with pytest.raises(DataError, match=r"no connection .*refused.* given up after 3"):
        get(urls=("http://127.0.0.1:1/data.npz",))


# --- wrong answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_final_answers_are_not_asked_for_twice(get, server, code):
    server.script = [f"status {code}"]
    with pytest.raises(DataError, match=f"answers {code} .*--data"):
        get()
    assert len(server.requests) == 1


def test_next_address(get, server):
    server.script = ["status 404", "whole"]
    assert get(urls=(f"{server.url}/gone", f"{server.url}/data.npz")) == CONTENT
    assert "404" in get.said[0]


def test_web_page_instead_of_data(get, server):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="sends a web page"):
        get()
    server.content_type, server.content = "application/octet-stream", b"<html>log in</html>"
    with pytest.raises(DataError, match=r"no \.npz file"):
        get()
    assert "fetched.json" not in leftovers(get.folder)


def test_wrong_size(get, server):
    with pytest.raises(DataError, match="has 300,002 bytes, wanted 5; this is another file"):
        get(size=5)
    assert len(server.requests) == 1
    server.script = ["chunked"]
    with pytest.raises(DataError, match="more than the 5 bytes"):
        get(size=5)


def test_length_unknown(get, server):
    server.script = ["chunked"]
    assert get() == CONTENT
    server.script = ["endless"]
    with pytest.raises(DataError, match="does not say how long"):
        get(force=True)
    server.script = ["chunked no"]
    with pytest.raises(DataError, match="connection broke"):
        get(force=True)


def test_compressed_on_the_way(get, server):
    server.extra = {"Content-Encoding": "gzip"}
    with pytest.raises(DataError, match="'gzip' though plain bytes"):
        get()


def test_empty_file(get, server):
    server.content = b""
    with pytest.raises(DataError, match="what arrived is no"):
        get(filename="data.xyz")


def test_redirects(get, server):
    server.script = ["redirect /elsewhere", "whole"]
    assert get() == CONTENT
    assert server.requests[1][0] == "/elsewhere"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/round", "redirect"),
        ("file:///etc/passwd", "not allowed"),
        ("ftp://127.0.0.1/x", "no address of a file"),
    ],
)
def test_bad_redirects(get, server, target, message):
    server.script = [f"redirect {target}"]
    with pytest.raises(DataError, match=message):
        get()


def test_resume_follows_a_redirect(get, server):
    server.script = ["redirect /a", "cut 100000", "redirect /b", "whole"]
    assert get() == CONTENT
    assert server.requests[3][1]["Range"] == "bytes=100000-"


def test_full_disk(get, monkeypatch):
    monkeypatch.setattr(
        "openmm_mlbench.data.download.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(DataError, match="300,002 bytes are to come, 1,000 are free"):
        get()


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("x")
    official = OfficialFile(name="toy", filename="x.npz", urls=(server.url,), origin="", licence="")
    with pytest.raises(DataError, match=r"cannot be written .* --to"):
        fetch(official, tmp_path / "file", patience=QUICK)


# --- mirrors, several processes, the command ------------------------------------------------------


def test_mirror(get, server, monkeypatch):
    assert get(mirror=f"{server.url}/copies/", urls=("http://127.0.0.1:1/x",)) == CONTENT
    assert server.requests[0][0] == "/copies/toy/data.npz"
    monkeypatch.setenv("MLBENCH_MIRROR", f"{server.url}/m")
    get(force=True, urls=("http://127.0.0.1:1/x",))
    assert server.requests[1][0] == "/m/toy/data.npz"


@pytest.mark.parametrize(
    "mirror", ["copies", "file:///tmp", "http://", "ftp://x/y", "http://[", "http://h:99999999"]
)
def test_mirror_that_is_none(get, mirror):
    with pytest.raises(DataError, match="is no address of a file"):
        get(mirror=mirror)


def test_two_fetch_at_once(server, tmp_path):
    """The second waits for the first, and finds the file."""
    server.script = ["stall 100", "whole"]
    official = OfficialFile(
        name="toy", filename="data.npz", urls=(f"{server.url}/data.npz",), origin="", licence=""
    )
    said, results = [], []

    def work():
        results.append(fetch(official, tmp_path, patience=QUICK, note=said.append))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.fresh for result in results) == [False, True]
    assert any("another process is fetching toy" in line for line in said)
    assert len(server.requests) == 2


def test_killed_process_leaves_a_part_that_is_used(server, tmp_path):
    server.script = ["stall 200000", "whole"]
    code = (
        "import sys\n"
        "from openmm_mlbench.cli import main\n"
        "sys.argv = ['openmm-mlbench', 'data', 'fetch', 'md17-ethanol']\n"
        "main()\n"
    )
    environment = {
        **os.environ, "MLBENCH_CACHE": str(tmp_path), "MLBENCH_MIRROR": server.url, "no_proxy": "127.0.0.1",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    part = tmp_path / "md17-ethanol" / ".md17_ethanol.npz.part"
    deadline = time.monotonic() + 300
    # The end of what came may still be in a buffer.
    while not (part.is_file() and part.stat().st_size >= 50_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    process.stderr.close()
    found = fetch(find_official("ethanol"), tmp_path, mirror=server.url, patience=QUICK)
    assert found.files[0].read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"].startswith("bytes=")


def run(*arguments):
    """Exit code of the command line."""
    try:
        main(list(arguments))
    except SystemExit as error:
        return error.code
    return 0


def ethanol_npz(repeat=1):
    frames = load_dataset("ethanol-gfn2")
    buffer = io.BytesIO()
    factor = 23.060548
    np.savez(
        buffer,
        z=frames.atomic_numbers,
        R=np.tile(frames.positions[:20], (repeat, 1, 1)),
        E=np.tile(frames.energies[:20, None], (repeat, 1)) * factor,
        F=np.tile(frames.forces[:20], (repeat, 1, 1)) * factor,
    )
    return buffer.getvalue()


def test_fetched_data_are_found_by_name(server, tmp_path, monkeypatch, capsys):
    server.content = ethanol_npz()
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("MLBENCH_MIRROR", server.url)
    with pytest.raises(DataError, match="data fetch ethanol"):
        load_dataset("ethanol")
    assert run("data", "fetch", "ethanol") == 0
    captured = capsys.readouterr()
    assert captured.out.strip().endswith("md17_ethanol.npz")
    assert "first" in captured.err
    assert "ethanol is read from it" in captured.err
    frames = load_dataset("ethanol")
    assert (frames.n_frames, frames.level_of_theory) == (20, "PBE+vdW-TS")
    assert run("data", "inspect", "ethanol") == 0
    assert "C2H6O" in capsys.readouterr().out
    # A file below $MLBENCH_DATA comes first, and --data before both.
    (tmp_path / "nothing" / "rmd17").mkdir(parents=True)
    (tmp_path / "nothing" / "rmd17" / "ethanol.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="nothing"):
        load_dataset("ethanol")
    assert run("data", "fetch", "ethanol") == 0
    assert "ethanol is still read from" in capsys.readouterr().err
    cached = tmp_path / "cache" / "md17-ethanol" / "md17_ethanol.npz"
    assert run("data", "inspect", "ethanol", "--data", str(cached)) == 0
    assert run("data", "fetch", "ethanol", "--to", str(tmp_path / "to")) == 0
    assert (tmp_path / "to" / "md17-ethanol" / "md17_ethanol.npz").is_file()


def test_model_starts_from_the_official_file_too(tmp_path, monkeypatch):
    """The shipped model was trained on a subset; the whole of MD17 in the cache must not stop it."""
    from openmm_mlbench.export.archive import find_archive
    from openmm_mlbench.workflow import data_of

    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "nothing"))
    (tmp_path / "md17-ethanol").mkdir()
    (tmp_path / "md17-ethanol" / "md17_ethanol.npz").write_bytes(ethanol_npz(repeat=150))
    card = find_archive("ethanol/schnet").card
    start = data_of(card)
    assert (start.own, start.frames.n_frames, start.frames.name) == (False, 1000, "ethanol")
    assert "starting from other frames of ethanol, because" in start.note
    with pytest.raises(DataError, match="not the frames that the model was trained on"):
        data_of(card, tmp_path / "md17-ethanol" / "md17_ethanol.npz")


def test_command_lists_and_refuses(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path))
    assert run("data", "fetch") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("rmd17", "md17-aspirin", "mdsim-water", "lips", "CC0", "1,066"))
    for name, message in [
        ("benzene", "'benzene' cannot be fetched; there are rmd17"),
        ("ethanol-gfn2", "ships with the package"),
        ("water-dft", "is not published as one file"),
    ]:
        assert run("data", "fetch", name) == 2
        error = capsys.readouterr().err
        assert message in " ".join(error.split())
        assert error.startswith("error: ")


def test_command_fails_in_one_line(server, tmp_path, capsys):
    server.script = ["status 404"]
    assert run("data", "fetch", "lips", "--to", str(tmp_path), "--mirror", server.url) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- archives -------------------------------------------------------------------------------------


def tar(path, *members, mode="w:bz2"):
    """Write a tar of (name, content or changes of the TarInfo)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                archive.addfile(info)
    return path


def test_archive_is_fetched_and_unpacked(get, server, tmp_path):
    wanted = ("toy/npz/a.npz", "toy/npz/b.npz")
    members = [("toy/readme.txt", b"hello"), (wanted[0], CONTENT), (wanted[1], OTHER)]
    server.content = tar(tmp_path / "x.tar.bz2", *members).read_bytes()
    known = {"filename": "toy.tar.bz2", "members": wanted, "unpacked_bytes": 10**6}
    assert get(**known) == CONTENT
    assert (get.folder / wanted[1]).read_bytes() == OTHER
    assert leftovers(get.folder) == {"toy", "fetched.json"}
    assert not (get.folder / "toy" / "readme.txt").exists()
    assert get(**known) == CONTENT
    assert not get.result.fresh
    (get.folder / wanted[1]).write_bytes(CONTENT)
    with pytest.raises(DataError, match="differs from what was fetched"):
        get(**known)
    (get.folder / wanted[1]).unlink()
    assert get(**known) == CONTENT
    assert len(server.requests) == 2


def test_hostile_archive_from_the_server(get, server, tmp_path):
    server.content = tar(tmp_path / "x.tar.bz2", ("a.npz", CONTENT), ("../escaped", b"x")).read_bytes()
    with pytest.raises(DataError, match="would leave the folder"):
        get(filename="toy.tar.bz2", members=("a.npz",), unpacked_bytes=10**6)
    assert leftovers(get.folder) == set()
    assert not (tmp_path / "escaped").exists()


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/etc/passwd", b"x")], "would leave the folder"),
        ([("../x", b"x")], "would leave the folder"),
        ([("a/../../x", b"x")], "would leave the folder"),
        ([("a\\..\\x", b"x")], "would leave the folder"),
        ([("C:/x", b"x")], "would leave the folder"),
        ([("a\nb", b"x")], "would leave the folder"),
        ([("..", {"type": tarfile.DIRTYPE})], "would leave the folder"),
        ([("link", LINK), ("link/x", b"x")], "is a link or device"),
        ([("hard", {"type": tarfile.LNKTYPE, "linkname": "../../x"})], "is a link or device"),
        ([("device", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], "is a link or device"),
        ([("block", {"type": tarfile.BLKTYPE})], "is a link or device"),
        ([("fifo", {"type": tarfile.FIFOTYPE})], "is a link or device"),
        ([("x", b"1"), ("x", b"2")], "comes twice"),
        ([("x", b"1"), ("X", b"2")], "comes twice"),
        ([("x", b"1"), ("./x", b"2")], "comes twice"),
        ([("x", b"1"), ("x/y", b"2")], "comes twice"),
        ([("x", bytes(2 * 10**6))], "unpacks to more than"),
        ([(f"x{i}", bytes(400_000)) for i in range(4)], "unpacks to more than"),
    ],
)
@pytest.mark.parametrize("mode", ["w:bz2", "w:gz", "w"])
def test_hostile_tar(tmp_path, members, message, mode):
    path = tar(tmp_path / {"w:bz2": "x.tar.bz2", "w:gz": "x.tar.gz", "w": "x.tar"}[mode], *members, mode=mode)
    with pytest.raises(DataError, match=message) as caught:
        unpack(path, tmp_path / "inner" / "out", max_bytes=10**6)
    assert "\n" not in str(caught.value)
    outside = [p for p in tmp_path.rglob("*") if (tmp_path / "inner") not in (p, *p.parents) and p != path]
    assert outside == []


def test_header_that_claims_more_than_there_is(tmp_path):
    info = tarfile.TarInfo("x")
    info.size = 10**12
    (tmp_path / "x.tar").write_bytes(info.tobuf() + b"data" + bytes(2048))
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(tmp_path / "x.tar", tmp_path / "out", max_bytes=10**6)
    with pytest.raises(DataError, match=r"not the 1,000,000,000,000 bytes|truncated"):
        unpack(tmp_path / "x.tar", tmp_path / "out2", max_bytes=10**13)


def test_bomb_in_a_header(tmp_path):
    """A name of 20 MB, packed into kilobytes, is read by tarfile before anybody sees a member."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 20 * 10**6
    import bz2

    with bz2.open(tmp_path / "x.tar.bz2", "wb") as file:
        file.write(info.tobuf())
        for _ in range(20):
            file.write(b"a" * 10**6)
    assert (tmp_path / "x.tar.bz2").stat().st_size < 10_000
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(tmp_path / "x.tar.bz2", tmp_path / "out", max_bytes=10**6)


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
@pytest.mark.parametrize("ending", [".tar.bz2", ".tar.gz", ".zip"])
def test_damaged_archive(tmp_path, damage, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", CONTENT)
    else:
        tar(path, ("a", CONTENT), mode="w:" + ending.split(".")[-1])
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        for place in range(len(data) // 3, len(data) // 3 + 64):
            data[place] ^= 0xFF
    else:
        data = b"<html>" * 100
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        unpack(path, tmp_path / "out", max_bytes=10**6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "mode", "content", "message"),
    [
        ("../x", 0, b"x", "would leave the folder"),
        ("/x", 0, b"x", "would leave the folder"),
        ("link", 0o120777, b"/etc", "is a link or device"),
        ("device", 0o020666, b"", "is a link or device"),
        ("bomb", 0, bytes(2 * 10**6), "unpacks to more than"),
    ],
)
def test_hostile_zip(tmp_path, name, mode, content, message):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("fine", b"x")
        archive.writestr(info, content)
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "x.zip", tmp_path / "out", max_bytes=10**6)


def test_zip_that_lies_about_its_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(10**6))
    data = (
        (tmp_path / "x.zip").read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    )
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError):
        unpack(tmp_path / "x.zip", tmp_path / "out", max_bytes=10**5)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) < 10**5


def test_honest_archives(tmp_path):
    path = tar(tmp_path / "x.tar", ("a", {"type": tarfile.DIRTYPE}), ("a/b", b"1"), ("./c", b"2"), mode="w")
    files = unpack(path, tmp_path / "out", max_bytes=100)
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == ["a/b", "c"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.mkdir("a")
        archive.writestr("a/b", b"1")
    assert [
        Path(file).read_bytes() for file in unpack(tmp_path / "x.zip", tmp_path / "z", max_bytes=100)
    ] == [b"1"]
    with pytest.raises(DataError, match="holds no d"):
        unpack(path, tmp_path / "out2", members=("d",), max_bytes=100)
