"""Fetching one stream into its partial file: ranges, resuming, and trying again.

What is here already is gone on from only when it proves to be part of what the site offers now: its tail is asked for
again and compared, whatever the server's validators say. That finds a file that changed behind the same address and
length, and a tail that a crash of the machine left damaged. It costs a fiftieth of what is here, between 4 and 64 KiB.
"""

import http.client
import os
import re
import ssl
import time
from typing import Any

from ytdl.child.errors import OF_THE_DISK, Refused
from ytdl.child.options import RETRIES, wait_before_retry
from ytdl.child.origin import Answer, Origin, Retry
from ytdl.child.partials import PART, Folder, name_of
from ytdl.child.progress import Meter
from ytdl.child.values import whole

LEAST_OVERLAP_BYTES, MOST_OVERLAP_BYTES = 4 * 1024, 64 * 1024
READ_BYTES = 64 * 1024
VALIDATORS = {"etag", "modified"}
PROGRESS_BYTES = 1024 * 1024
"""So much since the last failure, and the failures before it are forgotten."""
_SENTENCES = {
    "proxy_error": "The outbound proxy did not let the request through.",
    "upstream_error": "The site answered with an error.",
    "upstream_stalled": "The site stopped sending.",
    "upstream_truncated": "The site cut the transfer short.",
    "network_error": "The site could not be reached.",
}


class Changed(Exception):
    """What is here is not part of what the site offers now."""


class Transfer:
    """One stream. `kept` is how many of the bytes that were here at the start are part of the result."""

    def __init__(self, stream: dict[str, Any], origin: Origin, folder: Folder, meter: Meter) -> None:
        self._url: str = stream["url"]
        self._headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
        self._piece = whole((stream.get("downloader_options") or {}).get("http_chunk_size")) or None
        self._announced = whole(stream.get("filesize")) or None
        self._total = self._announced
        self._origin = origin
        self._folder = folder
        self._meter = meter
        self._name = name_of(stream)
        self._path = folder.path / (self._name + PART)
        self._marks = folder.marks_of(self._name)
        self._over = False
        self._sure = True
        self.kept = 0

    def run(self) -> None:
        """Returns when the whole stream is under its name; Refused says why it is not."""
        if (self._folder.path / self._name).is_file():
            self.kept = self._folder.size(self._name)
            self._meter.moved(self.kept, final=True)
            return
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._size = self.kept = os.fstat(self._file).st_size
            self._sure = not self._size
            if self._announced and self._size > self._announced:
                self._forget_bytes()
            self._fetch()
        finally:
            os.close(self._file)
        self._path.rename(self._folder.path / self._name)
        self._meter.moved(self._size, final=True)

    def _fetch(self) -> None:
        failures, since = 0, self._size
        while not self._is_whole():
            try:
                self._go_on()
            except Changed:
                self._begin_anew()
                failures += 1
            except (Retry, OSError, http.client.HTTPException) as error:
                code = _code_of(error)
                failures = 1 if self._size - since >= PROGRESS_BYTES else failures + 1
                since = self._size
                self._pause(code, failures)
            if failures > RETRIES:
                raise Refused("upstream_error", "The file changes faster than it can be fetched.")

    def _pause(self, code: str, failures: int) -> None:
        self._sure = not self._size
        self._origin.close()
        if failures > RETRIES:
            raise Refused(code, _SENTENCES[code])
        time.sleep(wait_before_retry(failures - 1))

    def _is_whole(self) -> bool:
        self._check_length()
        return self._sure and (self._over or self._size == self._total)

    def _check_length(self) -> None:
        if self._total is not None and self._size > self._total:
            self._folder.forget()
            raise Refused("upstream_error", f"The site sent more than the file's {self._total} bytes.")

    def _begin_anew(self) -> None:
        self._forget_bytes()
        self._folder.keep_marks(self._name, {})
        self._origin.close()

    def _forget_bytes(self) -> None:
        os.ftruncate(self._file, 0)
        self._size = self.kept = 0
        self._marks = {}
        self._total = self._announced
        self._sure = True

    # one request

    def _go_on(self) -> None:
        """Asks for the next piece, and for a tail of what is here before it unless that is known to belong to it."""
        begin = self._size if self._sure else self._size - overlap(self._size)
        answer = self._origin.ask(self._url, self._headers | self._range(begin))
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("upstream_error", "The site sent the file in a form that was not asked for.")
        marks = self._match(answer, begin)
        if not self._sure:
            self._compare(answer, begin)
        self._marks = marks
        self._folder.keep_marks(self._name, marks)
        self._receive(answer)
        # From one piece to the next a validator is enough, where there is one.
        self._sure = self._over or self._size == self._total or bool(VALIDATORS & marks.keys())

    def _range(self, begin: int) -> dict[str, str]:
        if not begin and self._piece is None:
            return {}
        end = "" if self._piece is None else begin + self._piece - 1
        etag = self._marks.get("etag")
        return {"Range": f"bytes={begin}-{end}"} | ({"If-Range": etag} if etag and begin else {})

    def _match(self, answer: Answer, begin: int) -> dict[str, str]:
        """The answer's marks, when it is what was asked for. A server that sends all from the start is believed."""
        if answer.status == 416:
            raise Changed
        if answer.status == 200:
            if begin:
                self._forget_bytes()
            total = answer.left
        else:
            total = self._total_of(answer, begin)
        self._agree(total)
        marks = marks_of(answer, total)
        if self._size and any(marks.get(key, value) != value for key, value in self._marks.items()):
            raise Changed
        if self._size and self._sure and not VALIDATORS & marks.keys() & self._marks.keys():
            raise Retry("upstream_error")  # nothing says that this is the same file: compare the next answer
        return marks

    def _total_of(self, answer: Answer, begin: int) -> int | None:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != begin:
            raise Retry("upstream_error")
        return int(found[2]) if found[2] != "*" else None

    def _agree(self, total: int | None) -> None:
        """Takes note of the whole length; it must be the one that the site named with the address."""
        if self._total is None:
            self._total = total
        elif total and total != self._total:
            if self._announced is None:
                raise Changed
            self._folder.forget()
            raise Refused("upstream_truncated", f"The file has {total} bytes instead of {self._announced}.")

    def _compare(self, answer: Answer, begin: int) -> None:
        have = os.pread(self._file, self._size - begin, begin)
        came = b""
        while len(came) < len(have) and (some := answer.read(len(have) - len(came))):
            came += some
        self._meter.fetched_again(len(came))
        if len(came) == len(have) and came != have:
            raise Changed
        if len(came) < len(have):
            raise Retry("upstream_truncated")
        self._sure = True

    def _receive(self, answer: Answer) -> None:
        """Writes the rest of the body, and stops where it goes on beyond the file's length."""
        begin = self._size
        while (self._total is None or self._size <= self._total) and (some := answer.read(READ_BYTES)):
            self._write(some)
        if self._size != self._total and (answer.left or self._size == begin):
            self._check_length()
            raise Retry("upstream_truncated")
        if answer.left:
            self._origin.close()  # it announced more than there is, which may yet come
        answer.close()
        self._over = self._total is None and (self._piece is None or self._size - begin < self._piece)

    def _write(self, some: bytes) -> None:
        view = memoryview(some)
        while view:
            written = os.pwrite(self._file, view, self._size)
            self._size += written
            view = view[written:]
        self._meter.moved(self._size)


def overlap(size: int) -> int:
    """How many of the last bytes of a partial file are compared before it is gone on from."""
    return min(size, MOST_OVERLAP_BYTES, max(LEAST_OVERLAP_BYTES, size // 50))


def marks_of(answer: Answer, total: int | None) -> dict[str, str]:
    """By what one version of a file is told from another. A weak tag says nothing of bytes."""
    found = {key: answer.headers.get(name, "") for key, name in (("etag", "ETag"), ("modified", "Last-Modified"))}
    if not found["etag"].startswith('"'):
        found["etag"] = ""
    found["length"] = str(total or "")
    return {key: value for key, value in found.items() if value}


def _code_of(error: Exception) -> str:
    """What a failed request comes to when all are like it. What another request cannot mend is raised as it is."""
    if isinstance(error, Retry):
        return error.code
    if isinstance(error, TimeoutError):
        return "upstream_stalled"
    if isinstance(error, http.client.IncompleteRead):
        return "upstream_truncated"
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return "upstream_error"
    if isinstance(error, ssl.SSLCertVerificationError):
        raise Refused("tls_error", "The site's certificate was not accepted.") from error
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in OF_THE_DISK):
        raise error
    return "network_error"
