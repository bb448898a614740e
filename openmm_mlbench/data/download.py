"""One file over HTTP, over poor lines: resumed, stalled connections given up, tried again.

urllib does the transport: pooch, the usual library for data files, cannot resume a download,
and a gigabyte over a poor line needs that.

A download in progress is a file with ``<name>.json`` beside it, which says what it is a part
of.  It is gone on with only if the server proves that the file is still the same (RFC 9110:
Range with If-Range), or if a published checksum will tell at the end.
"""

import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openmm_mlbench import __version__
from openmm_mlbench.data.npz import reason
from openmm_mlbench.errors import DataError, MLBenchError
from openmm_mlbench.files import read_json, write_json

_CHUNK = 1 << 18
# Nothing official is nearly as large; a server that sends without end is stopped.
MAX_FILE_BYTES = 64 << 30
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download is waited for.

    Args:
        stall_s: a connection that brings less than ``stall_bytes`` in this time is given up.
        stall_bytes: see stall_s.
        attempts: in a row, each bringing less than ``progress_bytes``, before giving up.
        progress_bytes: see attempts.
        first_wait_s: before the second attempt; doubled every time, up to a minute.
    """

    stall_s: float = 30.0
    stall_bytes: int = 1024
    attempts: int = 6
    progress_bytes: int = 1 << 20
    first_wait_s: float = 1.0


class _TryAgainError(Exception):
    """Something that may pass.

    Args:
        why: what happened, for the user.
        after_s: seconds that the server asked for.
    """

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to have.

    Args:
        url: where it is.
        part: where it is written.
        size: bytes that it must have, or None.
        checked: whether a published checksum will be compared afterwards.
        patience: with slow and broken connections.
        say: is told what is going on, in lines.
        progress: is told how many bytes are there, and of how many.
    """

    url: str
    part: Path
    size: int | None
    checked: bool
    patience: Patience
    say: Callable[[str], None]
    progress: Callable[[int, int | None], None]

    @property
    def state_path(self) -> Path:
        """What the part is a part of."""
        return self.part.with_name(self.part.name + ".json")

    @property
    def here(self) -> int:
        """Bytes written so far."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self) -> None:
        """Download, resuming and retrying.

        Raises:
            DataError: the server has no such file, or other bytes than wanted, or patience ends.
        """
        failures = 0
        while True:
            before = self.here
            try:
                self._attempt()
            except _TryAgainError as error:
                failures = 0 if self.here - before >= self.patience.progress_bytes else failures + 1
                if failures >= self.patience.attempts:
                    raise DataError(
                        f"{self.url}: {error}; given up after {failures} attempts, {self.here:,} bytes are kept; run "
                        "the same command again to go on"
                    ) from error
                pause = min(self.patience.first_wait_s * 2 ** max(0, failures - 1), _LONGEST_WAIT_S)
                pause = min(max(pause, error.after_s), _LONGEST_WAIT_S)
                self.say(f"{self.url}: {error}; {self.here:,} bytes are here, next attempt in {pause:g} s")
                time.sleep(pause)
            else:
                return

    def forget(self) -> None:
        """Remove the part: it is wrong, or it has been used."""
        self.part.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)

    def _attempt(self) -> None:
        offset, validator = self._resume_point()
        if self.size is not None and offset == self.size:
            return
        headers = {"User-Agent": f"openmm-mlbench/{__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310  the scheme was checked
        response = self._open(request, offset)
        if response is None:
            return
        with response:
            offset, total = self._agree(response, offset, validator)
            self._receive(response, offset, total)

    def _resume_point(self) -> tuple[int, str | None]:
        """Where to go on, and what proves that the file is still the same."""
        offset = self.here
        try:
            state = read_json(self.state_path)
            validator, url, size = state["validator"], state["url"], state["size"]
        except (OSError, MLBenchError, KeyError, TypeError):
            self.forget()
            return 0, None
        same = url == self.url and isinstance(validator, str)
        fits = self.size is None or offset <= self.size
        if not (fits and (same or (self.checked and size == self.size))):
            self.forget()
            return 0, None
        return offset, validator if same else None

    def _open(self, request: urllib.request.Request, offset: int) -> Any:
        """The answer of the server, or None when the part is the whole."""
        try:
            return _OPENER.open(request, timeout=self.patience.stall_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                    if error.headers.get("Content-Range") == f"bytes */{offset}":
                        return None
                    self.forget()
                    raise _TryAgainError("the file on the server is shorter than the part here") from error
                if error.code in _TEMPORARY:
                    raise _TryAgainError(
                        f"the server answers {error.code} {error.reason}", _seconds(error.headers)
                    ) from error
                raise DataError(
                    f"{self.url}: the server answers {error.code} {error.reason}; the file may have moved, get it in "
                    "another way and give it with --data"
                ) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DataError(
                    f"{self.url}: the certificate of the server is not valid ({error.reason.verify_message}); "
                    "nothing was downloaded"
                ) from error
            if isinstance(error.reason, TimeoutError):
                raise self._stalled() from error
            raise _TryAgainError(f"no connection ({_why(error.reason)})") from error
        except TimeoutError as error:
            raise self._stalled() from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(f"the connection broke ({_why(error)})") from error
        except ValueError as error:
            raise DataError(f"{self.url}: is no address ({reason(error)}); correct it") from error

    def _stalled(self) -> _TryAgainError:
        return _TryAgainError(f"the server sends nothing for {self.patience.stall_s:g} s")

    def _agree(self, response: Any, offset: int, validator: str | None) -> tuple[int, int | None]:
        """Compare what the server is about to send with what is wanted; where it begins, and the whole size."""
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise DataError(
                f"{self.url}: the server sends {headers['Content-Encoding']!r} though plain bytes were asked for"
            )
        if headers.get_content_type() in {"text/html", "application/xhtml+xml"}:
            raise DataError(
                f"{self.url}: the server sends a web page instead of the file; it has moved, or a login is in the "
                "way: get it in another way and give it with --data"
            )
        length = headers.get("Content-Length", "")
        remaining = int(length) if length.isascii() and length.isdigit() else None
        total = remaining
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            total = self._partial_size(headers.get("Content-Range", ""), offset)
        elif response.status != http.HTTPStatus.OK:
            raise DataError(f"{self.url}: the server answers {response.status}; wanted the file")
        elif offset:
            self.say(f"{self.url}: changed since, or the server cannot resume; starting over")
            offset = 0
        if total is None and self.size is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise DataError(
                f"{self.url}: the server does not say how long the file is, so its end cannot be told"
            )
        if self.size is not None and total is not None and total != self.size:
            raise DataError(
                f"{self.url}: the server has {total:,} bytes, wanted {self.size:,}; this is another file"
            )
        if max(total or 0, self.size or 0) > MAX_FILE_BYTES:
            raise DataError(f"{self.url}: the server offers {total:,} bytes; no data file is that large")
        self._check_room((self.size or total or 0) - offset)
        validators = _validators(headers)
        if offset == 0:
            self.part.unlink(missing_ok=True)
            write_json(self.state_path, {"url": self.url, "validator": (*validators, None)[0], "size": total})
        elif validators and validator is not None and validator not in validators:
            # Some servers honour Range and ignore If-Range.
            self.forget()
            raise _TryAgainError("the file changed on the server; starting over")
        return offset, total

    def _partial_size(self, content_range: str, offset: int) -> int:
        """Size of the whole, of an answer that begins at the offset."""
        start, _, total = content_range.removeprefix("bytes ").partition("/")
        if not start.startswith(f"{offset}-") or not (total.isascii() and total.isdigit()):
            self.forget()
            raise _TryAgainError(f"the server sends another part than asked for ({content_range[:60]!r})")
        stated = read_json(self.state_path)["size"]
        if stated is not None and int(total) != stated:
            self.forget()
            raise _TryAgainError(
                f"the file changed on the server, {stated:,} to {int(total):,} bytes; starting over"
            )
        return int(total)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise DataError(
                f"{self.part.parent}: {needed:,} bytes are to come, {free:,} are free; make room, or choose another folder with --to"
            )

    def _receive(self, response: Any, offset: int, total: int | None) -> None:
        end = self.size if self.size is not None else total
        with open(self.part, "ab" if offset else "wb") as file:
            try:
                here = self._copy(response, file, offset, end)
            finally:
                file.flush()
                os.fsync(file.fileno())
        if end is not None and here < end:
            raise _TryAgainError(f"the connection was closed after {here:,} of {end:,} bytes")
        if end is not None and here > end:
            self.forget()
            raise DataError(
                f"{self.url}: the server sends more than the {end:,} bytes wanted; this is another file"
            )

    def _copy(self, response: Any, file: IO[bytes], here: int, end: int | None) -> int:
        """Write what arrives; the size of the part afterwards."""
        window_start, window_bytes = time.monotonic(), 0
        self.progress(here, end)
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except TimeoutError as error:
                raise self._stalled() from error
            except (OSError, http.client.HTTPException) as error:
                raise _TryAgainError(f"the connection broke ({_why(error)})") from error
            if not chunk:
                return here
            file.write(chunk)
            here += len(chunk)
            window_bytes += len(chunk)
            self.progress(here, end)
            if here > (end if end is not None else MAX_FILE_BYTES):
                return here
            now = time.monotonic()
            if now - window_start >= self.patience.stall_s:
                if window_bytes < self.patience.stall_bytes:
                    raise _TryAgainError(
                        f"the server sent {window_bytes} bytes in {now - window_start:.0f} s, which leads nowhere"
                    )
                window_start, window_bytes = now, 0


def check_address(url: str) -> None:
    """Raise DataError unless this is an address that can be downloaded from."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise DataError(f"{url!r} is no address of a file; wanted http:// or https://, a host and a path")


def read_small(url: str, *, timeout_s: float, limit: int) -> bytes:
    """The whole answer of a server that is asked for something small.

    Raises:
        DataError: it does not come, or is not small.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"openmm-mlbench/{__version__}"})  # noqa: S310
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            data: bytes = response.read(limit + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"{url}: {_why(error)}") from error
    if len(data) > limit:
        raise DataError(f"{url}: answers with more than {limit:,} bytes")
    return data


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from an encrypted connection to an open one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request for the new address."""
        if req.type == "https" and not newurl.lower().startswith("https:"):
            fp.close()
            raise DataError(
                f"{req.full_url}: is redirected to {newurl[:120]!r}, which is not encrypted; refused"
            )
        try:
            check_address(newurl)
        except DataError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def _validators(headers: Any) -> tuple[str, ...]:
    """What proves that a file is the same, best first; weak tags do not (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    return tuple(value for value in (strong, headers.get("Last-Modified")) if value)


def _seconds(headers: Any) -> float:
    """What Retry-After asks for; 0 where it names a date or nothing."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _why(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return reason(error) if isinstance(error, BaseException) else str(error)[:120]
