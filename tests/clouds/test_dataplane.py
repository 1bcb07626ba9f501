"""The data plane against real loopback servers: what it sends, what it makes of broken replies, and whom it trusts."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from drpilot.base.clock import ManualClock, RealClock
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.dataplane import Ask, DataPlane, Timeouts
from drpilot.clouds.limits import AWS_RATES, Limits
from drpilot.clouds.session import Clients
from drpilot.clouds.signing import Signer, encoded_query
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.ports import CloudError, FailureClass
from tests.contract.grounds import opened
from tests.grounds import Door, Heard, answering, response
from tests.test_serve import until

GET = Ask("GetSnapshotBlock", "GET", "/snapshots/snap-1/blocks/7", {"blockToken": "a+/b ="})
BODY = bytes(range(256)) * 64


def put(**more: Any) -> Ask:
    given = {"headers": {"x-amz-data-length": "16384"}, "body": BODY, "changing": True, **more}
    return Ask("PutSnapshotBlock", "PUT", "/snapshots/snap-1/blocks/7", **given)


def plane_of(door: Door, url: str, *, service: str = "ebs", **change: Any) -> DataPlane:
    """The data plane of a site at `url`; keywords change its doorway, `clock` and `limits` aside."""
    door.url = url
    clock, limits = change.pop("clock", RealClock()), change.pop("limits", None)
    given = {"timeouts": Timeouts(2.0, 0.5, 20.0), **change}
    doorway = replace(Clients(door.settings(), environment={}).doorway(service), **given)
    return DataPlane(doorway, clock, limits)


def refused(plane: DataPlane, ask: Ask, into: memoryview | None = None) -> CloudError:
    """The error a request on a new channel ends with."""
    channel = plane.channel()
    try:
        channel.send(ask, into)
    except CloudError as error:
        return error
    finally:
        channel.close()
    raise AssertionError("it was answered")


def always(answer: bytes | str) -> Callable[[Heard, int], bytes | str]:
    return lambda heard, number: answer


def in_turn(*answers: bytes | str) -> Callable[[Heard, int], bytes | str]:
    """The answers one after the other, the last one for ever."""
    return lambda heard, number: answers[min(number, len(answers)) - 1]


class Hasty(ManualClock):
    """A clock on which eleven seconds pass whenever somebody looks."""

    def monotonic(self) -> float:
        self.advance(11)
        return super().monotonic()


# -- signatures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "path", "auth"),
    [("ebs", "/snapshots/snap-1/blocks/7", SigV4Auth), ("s3", "/b/a%20b%2Bc/%C3%A9%7E", S3SigV4Auth)],
)
def test_signatures_are_botocore_s(service: str, path: str, auth: Any) -> None:
    """Signature Version 4 as botocore computes it, twice from the cached key, with a session token."""
    clock, keys = ManualClock(), Credentials("AKIAEXAMPLE", "secret", "token/+=")
    signer = Signer(service, "eu-west-1", keys, clock)
    query = encoded_query({"blockToken": "a+/b =", "A": "é"})
    for _ in range(2):
        clock.advance(1)
        mine = signer.signed(
            "GET", path, query, {"host": "h:81", "x-amz-z": " a  b ", "range": "bytes=0-1"}, "f00"
        )
        theirs = AWSRequest("GET", f"http://h:81{path}?{query}", data=b"")
        theirs.context["timestamp"] = mine["x-amz-date"]
        for name in (
            "host",
            "x-amz-content-sha256",
            "x-amz-date",
            "x-amz-security-token",
            "x-amz-z",
            "range",
        ):
            theirs.headers[name] = mine[name]
        signing = auth(keys, service, "eu-west-1")
        text = signing.string_to_sign(theirs, signing.canonical_request(theirs))
        assert mine["authorization"].endswith("Signature=" + signing.signature(text, theirs))


@pytest.mark.parametrize("ground", ["lab-http", "moto"])
def test_a_cloud_that_checks_takes_the_signature(tmp_path: Path, ground: str) -> None:
    """The lab, which checks signatures, and moto's server take an object with an odd name and give it back."""
    with opened(ground, tmp_path) as running:
        running.call(
            "CreateBucket",
            service="s3",
            Bucket="b-1",
            CreateBucketConfiguration={"LocationConstraint": running.site.region},
        )
        plane = running.site.plane("s3")
        channel, into = plane.channel(), memoryview(bytearray(len(BODY)))
        where = "/b-1/a%20b%2Bc%7E/%C3%A9"
        channel.send(Ask("PutObject", "PUT", where, body=BODY, changing=True))
        answer = channel.send(Ask("GetObject", "GET", where, headers={"range": "bytes=256-511"}), into)
        assert (answer.status, answer.length, bytes(into[:256])) == (206, 256, BODY[256:512])
        listed = channel.send(Ask("ListObjectsV2", "GET", "/b-1", {"list-type": "2", "prefix": "a b"}))
        assert "<Key>a b+c~/é</Key>" in listed.body.decode()
        missing = refused(plane, Ask("GetObject", "GET", "/b-1/none"))
        assert (missing.kind, missing.code, missing.operation) == (
            FailureClass.NOT_FOUND,
            "NoSuchKey",
            "s3:GetObject",
        )
        channel.close()


def test_a_wrong_secret_is_refused(tmp_path: Path) -> None:
    """The lab says so, and the data plane calls it what it is."""
    with opened("lab-http", tmp_path) as running:
        text = running.door.keys.read_text()
        running.door.keys.write_text(
            "".join(line if "secret" not in line else line[:-4] + "zzz\n" for line in text.splitlines(True))
        )
        plane = BotoSite(Clients(running.door.settings(), environment={})).plane("ebs")
        error = refused(plane, GET)
        assert (error.kind, error.code, error.happened) == (
            FailureClass.AUTH,
            "InvalidSignatureException",
            "no",
        )


def test_the_payload_is_hashed_only_without_tls(door: Door, tmp_path: Path) -> None:
    """Plain HTTP signs the body's SHA-256, and takes one already known; TLS signs UNSIGNED-PAYLOAD."""
    with answering(always(response("", 201))) as server:
        channel = plane_of(door, server.url).channel()
        channel.send(put())
        channel.send(put(body_sha256="f00d"))
        channel.close()
        assert server.heard[0].headers["x-amz-content-sha256"] == hashlib.sha256(BODY).hexdigest()
        assert server.heard[1].headers["x-amz-content-sha256"] == "f00d"
        assert server.heard[0].body == BODY
    certificate, key = certified(tmp_path)
    with answering(always(response("", 201)), tls=(certificate, key)) as server:
        channel = plane_of(door, server.url, verify=str(certificate)).channel()
        channel.send(put())
        channel.close()
        assert (server.heard[0].headers["x-amz-content-sha256"], server.heard[0].body) == (
            "UNSIGNED-PAYLOAD",
            BODY,
        )


def test_keys_that_expire_are_renewed(door: Door, tmp_path: Path) -> None:
    """Keys of a command with an expiry are fetched again for a later request on the same connection."""
    count = tmp_path / "count"
    script = tmp_path / "keys.py"
    script.write_text(
        f"import json, pathlib, datetime\np = pathlib.Path({str(count)!r})\n"
        "n = int(p.read_text()) + 1 if p.exists() else 1\np.write_text(str(n))\n"
        "soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKIA{n}', 'SecretAccessKey': 's', 'SessionToken': f't{n}',"
        "'Expiration': soon.isoformat()}))\n"
    )
    with answering(always(response("x"))) as server:
        door.url = server.url
        line = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"
        settings = replace(door.settings(), credentials=CredentialsReference("command", line))
        channel = BotoSite(Clients(settings, environment={})).plane("ebs").channel()
        for _ in range(2):
            channel.send(GET)
        channel.close()
        keys = [one.headers["authorization"].split("Credential=")[1].split("/")[0] for one in server.heard]
        assert len(set(keys)) == 2
        assert [one.headers["x-amz-security-token"] for one in server.heard] == [
            key.replace("AKIA", "t") for key in keys
        ]


# -- the connection ---------------------------------------------------------------------------------------


def test_a_connection_is_kept(door: Door) -> None:
    """Ten requests take one connection, and each body lands in the buffer that was given."""
    with answering(lambda heard, number: response(bytes([number]) * 20_000)) as server:
        channel, into = plane_of(door, server.url).channel(), memoryview(bytearray(20_000))
        for number in range(1, 11):
            answer = channel.send(GET, into)
            assert (answer.length, bytes(into)) == (20_000, bytes([number]) * 20_000)
        assert channel.transport.connection.opened == 1
        assert server.heard[0].path == "/snapshots/snap-1/blocks/7?blockToken=a%2B%2Fb%20%3D"
        channel.close()


def test_a_connection_closed_while_idle_is_opened_again(door: Door) -> None:
    """A request that meets a closed connection is sent once more; one that must not be repeated fails as unknown."""
    for ask, requests in ((GET, 3), (put(repeatable=False), 2)):
        with answering(in_turn(response("one"), "cut", response("two"))) as server:
            channel = plane_of(door, server.url).channel()
            assert channel.send(GET).body == b"one"
            if ask is GET:
                assert channel.send(ask).body == b"two"
                assert channel.transport.connection.opened == 2
            else:
                with pytest.raises(CloudError) as caught:
                    channel.send(ask)
                assert (caught.value.code, caught.value.happened) == ("ConnectionClosedError", "unknown")
            channel.close()
            assert len(server.heard) == requests


def test_a_new_connection_that_is_cut_is_not_repeated(door: Door) -> None:
    """Only an idle connection excuses a second try: a server that cuts every request is asked once."""
    with answering(always("cut")) as server:
        error = refused(plane_of(door, server.url), GET)
        assert (error.kind, error.code, len(server.heard)) == (
            FailureClass.TRANSIENT,
            "ConnectionClosedError",
            1,
        )


BROKEN = {
    "short": (response(b"x" * 10, length=99), "TruncatedReply"),
    "no status line": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "ResponseParserError"),
    "no header": (b"HTTP/1.1 200 OK\r\nrubbish\r\n\r\n", "ResponseParserError"),
    "no length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "ResponseParserError"),
    "too long": (response(b"x" * 101), "ResponseParserError"),
    "endless head": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "ResponseParserError"),
    "bad chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "ResponseParserError"),
    "long chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "ResponseParserError"),
    "half a head": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nx", "ConnectionClosedError"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_reply_is_an_error_and_the_next_request_works(door: Door, kind: str) -> None:
    """Short, long or garbled replies are never taken for an answer; the connection is given up and opened anew."""
    broken, code = BROKEN[kind]
    with answering(lambda heard, number: broken if number == 1 else response(b"y" * 100)) as server:
        channel, into = plane_of(door, server.url).channel(), memoryview(bytearray(100))
        if kind == "half a head":  # the server must close for the end to show
            broken = broken + b"onnection: close"
        with pytest.raises(CloudError) as caught:
            channel.send(GET, into)
        assert (caught.value.code, caught.value.happened) == (code, "no")
        assert channel.send(GET, into).length == 100
        assert bytes(into) == b"y" * 100
        channel.close()


def test_chunks_and_bodies_that_end_with_the_connection(door: Door) -> None:
    """Both other forms of a body are read whole, also into a buffer; 204 has none."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\n, x\r\n0\r\nT: 1\r\n\r\n"
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + response("after")
    nothing = b"HTTP/1.1 204 No Content\r\n\r\n"
    with answering(in_turn(chunked, chunked, interim, nothing, closing, response("on"))) as server:
        channel, into = plane_of(door, server.url).channel(), memoryview(bytearray(64))
        assert channel.send(GET).body == b"hello, x"
        assert bytes(into[: channel.send(GET, into).length]) == b"hello, x"
        assert channel.send(GET).body == b"after"
        assert (channel.send(GET).status, channel.send(GET).body) == (204, b"to the end")
        assert channel.send(GET).body == b"on"
        assert channel.transport.connection.opened == 2
        channel.close()


def test_a_server_that_hangs_is_left(door: Door) -> None:
    """No answer within the read timeout is a timeout; a change may have happened."""
    with answering(always("hang")) as server:
        plane = plane_of(door, server.url)
        assert (refused(plane, GET).kind, refused(plane, GET).code) == (
            FailureClass.TIMEOUT,
            "ReadTimeoutError",
        )
        assert refused(plane, put()).happened == "unknown"


def test_a_server_that_drips_is_left(door: Door) -> None:
    """One exchange has a bound of its own, however often a few bytes arrive: the rest is not waited for."""
    clock = ManualClock()

    def slowly(heard: Heard, number: int) -> bytes:
        clock.advance(21)
        return response("late")

    with answering(slowly) as server:
        error = refused(plane_of(door, server.url, clock=clock), GET)
        assert (error.kind, error.code) == (FailureClass.TIMEOUT, "ReadTimeoutError")
    with answering(always(response(b"x" * (16 << 20)))) as server:
        plane = plane_of(door, server.url, clock=Hasty())
        error = refused(plane, GET, memoryview(bytearray(16 << 20)))
        assert (error.kind, error.code) == (FailureClass.TIMEOUT, "ReadTimeoutError")


def test_a_reply_that_stops_half_way_holds_up_no_other(door: Door) -> None:
    """Bytes are moved in turns, and who waits for more has given its turn back."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50
    ended: list[str] = []
    with answering(in_turn(half, response("whole"))) as server:
        plane = plane_of(door, server.url, timeouts=Timeouts(2.0, 20.0, 60.0))
        waiting = threading.Thread(target=lambda: ended.append(refused(plane, GET).code), daemon=True)
        waiting.start()
        until(lambda: len(server.heard) == 1, "the first request")
        RealClock().sleep(0.2)  # for its half to be read
        channel, answers = plane.channel(), list[bytes]()
        second = threading.Thread(target=lambda: answers.append(channel.send(GET).body), daemon=True)
        second.start()
        second.join(10)
        channel.close()
        assert answers == [b"whole"]
        assert ended == []


def test_nobody_listening_is_said_and_nothing_happened(door: Door) -> None:
    """A refused connection certainly had no effect."""
    error = refused(plane_of(door, "http://127.0.0.1:9"), put())
    assert (error.code, error.happened) == ("EndpointConnectionError", "no")


# -- refusals and limits ----------------------------------------------------------------------------------


def denial(code: str, status: int = 400) -> bytes:
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nx-amzn-ErrorType: {code}\r\n"
    body = json.dumps({"Message": "no", "Reason": "x"})
    return f"{head}x-amzn-RequestId: r-1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (denial("ThrottlingException"), FailureClass.THROTTLED, "ThrottlingException"),
        (denial("RequestThrottledException"), FailureClass.THROTTLED, "RequestThrottledException"),
        (denial("ResourceNotFoundException", 404), FailureClass.NOT_FOUND, "ResourceNotFoundException"),
        (denial("InternalServerException", 500), FailureClass.TRANSIENT, "InternalServerException"),
        (response("<html>oops", 503, kind="text/html"), FailureClass.TRANSIENT, "503"),
    ],
)
def test_refusals_keep_the_cloud_s_own_code(door: Door, answer: bytes, kind: FailureClass, code: str) -> None:
    """An error's code and kind are those botocore would have read, and the connection stays usable."""
    with answering(in_turn(answer, response("fine"))) as server:
        channel = plane_of(door, server.url).channel()
        with pytest.raises(CloudError) as caught:
            channel.send(GET, memoryview(bytearray(10)))
        assert (caught.value.kind, caught.value.code) == (kind, code)
        assert channel.send(GET).body == b"fine"
        assert channel.transport.connection.opened == 1
        channel.close()


@pytest.mark.parametrize(
    ("code", "waits"), [("ThrottlingException", True), ("RequestThrottledException", False)]
)
def test_only_the_account_s_throttle_empties_the_account_s_bucket(door: Door, code: str, waits: bool) -> None:
    """The limit of one snapshot says nothing about the account; the account's own makes the next request wait."""
    clock = ManualClock()
    limits = Limits(AWS_RATES, clock)
    with answering(in_turn(denial(code), response("fine"))) as server:
        channel = plane_of(door, server.url, clock=clock, limits=limits).channel()
        with pytest.raises(CloudError):
            channel.send(GET)
        channel.send(GET)
        channel.close()
    assert (clock.monotonic() > 0) is waits


# -- trust and ways ---------------------------------------------------------------------------------------


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of our own for 127.0.0.1, and its key."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


def test_a_certificate_nobody_vouches_for_is_refused(door: Door, tmp_path: Path) -> None:
    """The site's ca_bundle decides whom to trust, as for every other call; refused means nothing was sent."""
    certificate, key = certified(tmp_path)
    with answering(always(response("hello")), tls=(certificate, key)) as server:
        door.url = server.url
        error = refused(BotoSite(Clients(door.settings(), environment={}), Ways()).plane("ebs"), put())
        assert (error.kind, error.code, error.happened) == (FailureClass.INVALID, "SSLError", "no")
        assert server.heard == []
        trusting = replace(door.settings(), ca_bundle=str(certificate))
        channel = BotoSite(Clients(trusting, environment={}), Ways()).plane("ebs").channel()
        assert channel.send(GET).body == b"hello"
        channel.close()


def test_a_proxy_is_used(door: Door) -> None:
    """Behind a proxy the same requests go out through it, signed for the endpoint."""
    with answering(lambda heard, number: response(heard.path if heard.method == "GET" else "")) as proxy:
        plane = plane_of(door, "http://ebs.example.org", proxies={"http": proxy.url})
        channel, into = plane.channel(), memoryview(bytearray(200))
        answer = channel.send(GET, into)
        wanted = b"http://ebs.example.org/snapshots/snap-1/blocks/7?blockToken=a%2B%2Fb%20%3D"
        assert bytes(into[: answer.length]) == wanted
        channel.send(put())
        assert (proxy.heard[1].headers["host"], proxy.heard[1].body) == ("ebs.example.org", BODY)
        assert refused(plane, GET, memoryview(bytearray(5))).code == "HTTPClientError"
        plane.close()


def test_an_endpoint_of_older_signatures_is_an_obstacle(door: Door) -> None:
    """Signature Version 2 is left to botocore, and the doorway says why."""
    with answering(always(response(""))) as server:
        assert plane_of(door, server.url).doorway.obstacle == ""
        old = plane_of(door, server.url, signature="s3")
        assert old.doorway.obstacle == "ebs on home is signed by s3, not by Signature Version 4"
