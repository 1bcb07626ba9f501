"""A shelf behind presigned URLs on real loopback servers: what goes out, what is believed, and what is never said."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.transfer.pace import Pace
from drpilot.transfer.signedshelf import Carrier, SignedShelf, SignedUrls
from drpilot.transfer.stage import PART_BYTES
from tests.grounds import Answering, Heard, answering, free_port, response

SIGNED = "?AWSAccessKeyId=AKIAEXAMPLE&Signature=a%2Bb%2Fc%3D&Expires=99"
DATA = bytes(range(256)) * 5000
MD5 = hashlib.md5(DATA).hexdigest()


def _carrier(**given: Any) -> Carrier:
    return Carrier(Pace(ManualClock(), Chance(3)), **given)


def _shelf(server: Answering, *, head: bool = True, **given: Any) -> SignedShelf:
    def urls(name: str) -> SignedUrls:
        url = f"{server.url}/stage/{name}{SIGNED}"
        return SignedUrls(url, url, url if head else "")

    return SignedShelf("the stage", urls, _carrier(**given))


def _object(data: bytes = b"", status: int = 200, etag: str = "", **headers: str) -> bytes:
    more = {"ETag": f'"{etag}"', **headers} if etag else headers
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(data)}"]
    return (
        "\r\n".join([*lines, *(f"{key}: {value}" for key, value in more.items())]).encode()
        + b"\r\n\r\n"
        + data
    )


def _head(etag: str, length: int) -> bytes:
    return f'HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: "{etag}"\r\n\r\n'.encode()


def _in_turn(*answers: bytes | str) -> Callable[[Heard, int], bytes | str]:
    return lambda heard, number: answers[min(number, len(answers)) - 1]


def test_a_part_goes_out_as_it_was_signed() -> None:
    """The query is sent byte for byte, with nothing that a signature of version 2 would have to cover."""
    with answering(_in_turn(_object(status=404), _object(etag=MD5))) as server:
        _shelf(server).put("snap-1/000000", DATA)
    looked, put = server.heard
    assert (looked.method, put.method, put.body) == ("HEAD", "PUT", DATA)
    assert put.path == f"/stage/snap-1/000000{SIGNED}"
    assert not {"content-type", "content-md5", "authorization", "transfer-encoding"} & put.headers.keys()


def test_a_part_that_is_there_is_not_sent_again() -> None:
    """HEAD shows its MD5 and its length: one request, no bytes. Another MD5 or length, and it is sent."""
    with answering(_in_turn(_head(MD5, len(DATA)))) as server:
        _shelf(server).put("snap-1/000000", DATA)
    assert [heard.method for heard in server.heard] == ["HEAD"]
    for other in (_head("0" * 32, len(DATA)), _head(MD5, 7), _head(f"{MD5}-2", len(DATA))):
        with answering(_in_turn(other, _object(etag=MD5))) as server:
            _shelf(server).put("snap-1/000000", DATA)
        assert [heard.method for heard in server.heard] == ["HEAD", "PUT"]


def test_other_bytes_in_the_store_are_noticed() -> None:
    """An ETag that is another MD5 is a damaged part: sent again, and after three times an error. One that is no MD5,
    as under a KMS key, is no proof of anything.
    """
    with answering(_in_turn(_object(etag="0" * 32), _object(etag=MD5))) as server:
        _shelf(server, head=False).put("p", DATA)
    assert len(server.heard) == 2
    with answering(_in_turn(_object(etag="0" * 32))) as server:
        with pytest.raises(CloudError) as caught:
            _shelf(server, head=False).put("p", DATA)
        assert (caught.value.code, len(server.heard)) == ("ChecksumMismatch", 3)
    keyed = {"x-amz-server-side-encryption": "aws:kms"}
    for answer in (_object(etag=f"{MD5}-1"), _object(), _object(etag="0" * 32, **keyed)):
        with answering(_in_turn(answer)) as server:
            _shelf(server, head=False).put("p", DATA)
        assert len(server.heard) == 1


@pytest.mark.parametrize(
    "first",
    [
        response("<Error><Code>InternalError</Code></Error>", 500),
        response("<Error><Code>SlowDown</Code></Error>", 503),
        response("", 503),
        response("<Error><Code>RequestTimeout</Code></Error>", 400),
        "reset",
        "cut",
    ],
)
def test_what_passes_is_tried_again(first: bytes | str) -> None:
    """A broken connection, a throttle and a server's error are tried again, and the part arrives."""
    with answering(_in_turn(first, _object(etag=MD5))) as server:
        _shelf(server, head=False).put("p", DATA)
    assert [heard.body == DATA for heard in server.heard][-1]
    assert len(server.heard) == 2


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", FailureClass.AUTH),
        (403, "SignatureDoesNotMatch", FailureClass.AUTH),
        (400, "EntityTooLarge", FailureClass.INVALID),
        (301, "PermanentRedirect", FailureClass.INVALID),
        (404, "NoSuchBucket", FailureClass.NOT_FOUND),
    ],
)
def test_what_does_not_pass_is_said_once(status: int, code: str, kind: FailureClass) -> None:
    """A refusal is final. It names host and object; the URL, and what the store says of it, stay unsaid."""
    body = (
        f"<Error><Code>{code}</Code><Message>{SIGNED}</Message><StringToSign>{SIGNED}</StringToSign></Error>"
    )
    with answering(_in_turn(response(body, status))) as server:
        with pytest.raises(CloudError) as caught:
            _shelf(server, head=False).put("snap-1/000003", DATA)
        assert len(server.heard) == 1
    error = caught.value
    assert (error.kind, error.code, error.happened, error.site) == (kind, code, "no", "127.0.0.1")
    assert "snap-1/000003" in str(error)
    assert "Signature" not in str(error).replace(code, "")
    assert error.__cause__ is None


def test_a_host_that_is_not_there_is_an_error_without_its_url() -> None:
    """Nobody listens: tried with patience, then said without the URL that urllib3 would quote."""
    carrier, url = _carrier(), f"http://127.0.0.1:{free_port()}/stage/p{SIGNED}"
    for call in (lambda: carrier.put(url, "p", b"x"), lambda: carrier.get(url, "p", most=9)):
        with pytest.raises(CloudError) as caught:
            call()
        assert caught.value.kind is FailureClass.TRANSIENT
        assert "AKIAEXAMPLE" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_objects_are_read_whole_by_range_and_bounded() -> None:
    """A range, a store that knows none, an object that is not there, one cut off, one longer than it may be."""
    with answering(_in_turn(_object(b"2345", 206), _object(b"0123456789"), _object(status=404))) as server:
        shelf = _shelf(server)
        assert shelf.get("p", (2, 5)) == b"2345"
        assert shelf.get("p", (2, 5)) == b"2345"
        assert shelf.get("p") is None
        assert [heard.headers.get("range") for heard in server.heard] == ["bytes=2-5", "bytes=2-5", None]
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n0123"
    with answering(_in_turn(cut, _object(b"012345678"))) as server:
        assert _shelf(server).get("p") == b"012345678"
    with answering(_in_turn(_object(b"x" * 100))) as server, pytest.raises(CloudError, match="cut off"):
        _carrier().get(server.url, "p", most=99)


def test_zeros_are_zeros_without_a_request() -> None:
    """The object of zeros is known; a name the job has no URL for is refused here."""
    shelf = SignedShelf("the stage", lambda name: SignedUrls(), _carrier())
    assert shelf.get("zeros", (0, 0)) == b"\0"
    assert shelf.get("zeros") == bytes(PART_BYTES)
    assert shelf.names("snap-1") is None
    for call in (lambda: shelf.get("p"), lambda: shelf.put("p", b"x")):
        with pytest.raises(CloudError) as caught:
            call()
        assert (caught.value.code, caught.value.kind) == ("NotSigned", FailureClass.AUTH)


def test_connections_are_kept_and_bounded() -> None:
    """Eight threads with twenty parts each use no more connections than places, and every part arrives once."""
    with answering(lambda heard, number: _object(etag=hashlib.md5(heard.body).hexdigest())) as server:
        shelf = _shelf(server, head=False, most=4)

        def work(worker: int) -> None:
            for part in range(20):
                shelf.put(f"{worker}/{part}", f"{worker}/{part}".encode())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(heard.body for heard in server.heard) == sorted(
        f"{worker}/{part}".encode() for worker in range(8) for part in range(20)
    )


def test_a_certificate_of_nobody_is_trusted_only_where_the_job_brings_it(tmp_path: Path) -> None:
    """A self-signed host is refused; with its certificate the part goes; a text that is none is an error."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    with answering(_in_turn(_object(etag=MD5)), tls=(certificate, key)) as server:
        with pytest.raises(CloudError) as caught:
            _shelf(server, head=False).put("p", DATA)
        assert (caught.value.code, caught.value.kind) == ("SSLError", FailureClass.INVALID)
        _shelf(server, head=False, certificates=certificate.read_text()).put("p", DATA)
        assert [heard.body for heard in server.heard] == [DATA]
    with pytest.raises(DrpilotError) as refused:
        _carrier(certificates="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert refused.value.word == "key-unreadable"


def test_a_proxy_carries_what_it_is_given() -> None:
    """Behind a proxy the whole URL goes to the proxy, and the host that was signed stays in the head."""
    with answering(_in_turn(_object(etag=MD5))) as server:
        carrier = _carrier(proxy=server.url)
        carrier.put(f"http://cloud.example.org:8773/stage/p{SIGNED}", "p", DATA)
    (heard,) = server.heard
    assert heard.path == f"http://cloud.example.org:8773/stage/p{SIGNED}"
    assert heard.headers["host"] == "cloud.example.org:8773"
