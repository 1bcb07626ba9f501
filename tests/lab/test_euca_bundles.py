"""Image bundles on the twin: what each version checks at registration, and the bytes that instances boot from."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from drpilot.lab.eucalyptus import keyring
from drpilot.lab.eucalyptus.bundle import BadBundle, blocks_of, is_signed_by, read_manifest, unwrap
from drpilot.lab.store import BLOCK_BYTES
from tests.lab.euca_world import Twin, refused

_BUNDLE = Path(__file__).parents[1] / "data" / "reference-bundle"
_MANIFEST = (_BUNDLE / "compress25.img.manifest.xml").read_bytes()
_PART = "compress25.img.part.00"
_PART_DATA = (_BUNDLE / _PART).read_bytes()
_IMAGE_SHA256 = (_BUNDLE / "image.sha256").read_text().split()[0]
_IMAGE_BYTES = 26_214_400


def _key() -> Any:
    return serialization.load_der_private_key((_BUNDLE / "keys" / "cloud-pk.der").read_bytes(), None)


@pytest.fixture(params=("4.4", "5"))
def twin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Twin]:
    made = _twin(tmp_path, str(request.param))
    yield made
    made.close()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Twin]:
    made = _twin(tmp_path, "3.4")
    yield made
    made.close()


def _twin(directory: Path, version: str) -> Twin:
    """A cloud with the key pair that the reference bundle was made for."""
    made = Twin(directory, version)
    keys = _BUNDLE / "keys"
    keyring.install(made.cloud, (keys / "cloud-pk.der").read_bytes(), (keys / "cloud-cert.pem").read_bytes())
    made.client("s3").create_bucket(Bucket="images")
    return made


def _upload(
    twin: Twin,
    prefix: str = "",
    *,
    acl: str = "aws-exec-read",
    manifest: bytes = _MANIFEST,
    part: bytes | None = _PART_DATA,
) -> str:
    s3 = twin.client("s3")
    if part is not None:
        s3.put_object(Bucket="images", Key=prefix + _PART, Body=part, ACL=acl)
    s3.put_object(Bucket="images", Key=f"{prefix}compress25.img.manifest.xml", Body=manifest, ACL=acl)
    return f"images/{prefix}compress25.img.manifest.xml"


def _register(twin: Twin, location: str, **more: Any) -> str:
    given = {"Name": "shop-web", "Architecture": "x86_64", "VirtualizationType": "hvm", **more}
    return str(twin.client().register_image(ImageLocation=location, **given)["ImageId"])


def _boot(twin: Twin, image: str) -> dict[str, Any]:
    ec2 = twin.client()
    where = {} if twin.version == "3.4" else {"SubnetId": twin.ground()["subnet"]}
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, **where)["Instances"][0]
    assert made["State"]["Name"] == "pending"
    twin.wait(8)
    shown = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"][0]["Instances"][0]
    return dict(shown)


def _root_sha256(twin: Twin, instance_id: str) -> str:
    data = twin.cloud.store.read_volume(f"{instance_id}-root", 0, _IMAGE_BYTES)
    assert len(data) == _IMAGE_BYTES
    return hashlib.sha256(data).hexdigest()


def test_an_instance_boots_from_the_bundles_bytes(twin: Twin) -> None:
    """A bundle of the real tools, uploaded under a prefix and registered, gives the image of image.sha256."""
    image = _register(twin, _upload(twin, "web/v1/"))
    assert image.startswith("emi-")
    shown = twin.client().describe_images(ImageIds=[image])["Images"][0]
    assert (shown["RootDeviceType"], shown["State"]) == ("instance-store", "available")
    assert (shown["VirtualizationType"], shown["ImageType"]) == ("hvm", "machine")
    instance = _boot(twin, image)
    assert (instance["State"]["Name"], instance["RootDeviceType"]) == ("running", "instance-store")
    assert instance["BlockDeviceMappings"] == []
    assert _root_sha256(twin, instance["InstanceId"]) == _IMAGE_SHA256
    ec2 = twin.client()
    assert refused(ec2.stop_instances, InstanceIds=[instance["InstanceId"]])[1] == "UnsupportedOperation"
    assert refused(ec2.create_image, InstanceId=instance["InstanceId"], Name="again")[:2] == (
        500,
        "InternalError",
    )
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    twin.wait(4)
    assert not twin.cloud.store.volume_path(f"{instance['InstanceId']}-root").exists()


def test_the_manifests_user_must_be_the_caller(twin: Twin) -> None:
    """Another account in the manifest is AuthFailure; a tampered one with a broken signature is not noticed."""
    stranger = _MANIFEST.replace(b"<user>123456789012<", b"<user>210987654321<")
    location = _upload(twin, manifest=stranger)
    assert refused(twin.client().register_image, ImageLocation=location, Name="stranger") == (
        400,
        "AuthFailure",
        "Manifest is not accessible",
    )
    tampered = _upload(twin, "t/", manifest=_MANIFEST.replace(b"<name>compress25.img<", b"<name>other<"))
    assert _register(twin, tampered).startswith("emi-")


def test_the_manifest_must_be_readable_by_the_cloud(twin: Twin) -> None:
    """A private object is not read as aws-exec-read; one that is not there neither."""
    location = _upload(twin, acl="private")
    status, code, message = refused(twin.client().register_image, ImageLocation=location, Name="private")
    assert (status, code) == (500, "InternalError")
    assert message == f"Failed to read manifest file: {location}"
    twin.client("s3").put_object_acl(Bucket="images", Key="compress25.img.manifest.xml", ACL="aws-exec-read")
    assert _register(twin, location).startswith("emi-")
    assert refused(twin.client().register_image, ImageLocation="images/none", Name="none")[0] == 500


def test_paravirtual_is_the_default_and_wants_a_kernel(twin: Twin) -> None:
    """Without VirtualizationType a whole-disk image can't be registered: a kernel and a ramdisk are missing."""
    location = _upload(twin)
    ec2 = twin.client()
    asked = {"ImageLocation": location, "Name": "paravirtual", "Architecture": "x86_64"}
    assert refused(ec2.register_image, **asked) == (400, "MissingParameter", "Kernel ID must be specified")
    kernel = _MANIFEST.replace(b"<type>machine<", b"<type>kernel<")
    eki = _register(twin, _upload(twin, "k/", manifest=kernel), Name="kernel")
    assert eki.startswith("eki-")
    assert refused(ec2.register_image, **asked, KernelId=eki)[2] == "Ramdisk ID must be specified"
    ramdisk = _MANIFEST.replace(b"<type>machine<", b"<type>ramdisk<")
    eri = _register(twin, _upload(twin, "r/", manifest=ramdisk), Name="ramdisk")
    image = ec2.register_image(**asked, KernelId=eki, RamdiskId=eri)["ImageId"]
    shown = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (shown["KernelId"], shown["RamdiskId"], shown["VirtualizationType"]) == (eki, eri, "paravirtual")


@pytest.mark.parametrize("fault", ["missing part", "damaged part", "another cloud", "private part"])
def test_parts_are_looked_at_when_an_instance_boots(twin: Twin, fault: str) -> None:
    """Registration never reads the parts; an instance of a bad bundle ends without having run, and says why."""
    if fault == "another cloud":
        keyring.install(twin.cloud, *keyring.new_pair(twin.cloud, "another"))
    part = {"missing part": None, "damaged part": _PART_DATA[:-16] + bytes(16)}.get(fault, _PART_DATA)
    image = _register(twin, _upload(twin, part=part))
    if fault == "private part":
        twin.client("s3").put_object_acl(Bucket="images", Key=_PART, ACL="private")
    instance = _boot(twin, image)
    assert instance["State"]["Name"] == "terminated"
    words = {"damaged part": "digest of the part", "another cloud": "not encrypted for this cloud"}
    assert words.get(fault, "can't be read") in instance["StateReason"]["Message"]


def test_the_bundling_certificate_fits_the_clouds_key(twin: Twin) -> None:
    """What DescribeServiceCertificates tells is the certificate of the key that decrypts."""
    assert keyring.certificate(twin.cloud) == (_BUNDLE / "keys" / "cloud-cert.pem").read_bytes()


# -- 3.4 --------------------------------------------------------------------------------------------------


def test_3_4_verifies_the_signature_against_the_accounts_certificates(old: Twin) -> None:
    """Refused until the user's certificate is uploaded; a tampered manifest is refused with it too."""
    location, iam = _upload(old), old.client("iam")
    asked = {"ImageLocation": location, "Name": "shop-web", "VirtualizationType": "hvm"}
    assert refused(old.client().register_image, **asked)[:2] == (500, "InternalError")
    pem = (_BUNDLE / "keys" / "user-cert.pem").read_text()
    uploaded = iam.upload_signing_certificate(CertificateBody=pem)["Certificate"]
    assert refused(iam.upload_signing_certificate, CertificateBody=pem)[1] == "DuplicateCertificate"
    assert refused(iam.upload_signing_certificate, CertificateBody="no")[1] == "MalformedCertificate"
    tampered = _upload(old, "t/", manifest=_MANIFEST.replace(b"<name>compress25.img<", b"<name>other<"))
    assert refused(old.client().register_image, ImageLocation=tampered, Name="tampered")[0] == 500
    image = old.client().register_image(**asked)["ImageId"]
    instance = _boot(old, image)
    assert _root_sha256(old, instance["InstanceId"]) == _IMAGE_SHA256
    iam.update_signing_certificate(CertificateId=uploaded["CertificateId"], Status="Inactive")
    assert refused(old.client().register_image, **asked | {"Name": "late"})[0] == 500
    assert [row["Status"] for row in iam.list_signing_certificates()["Certificates"]] == ["Inactive"]


def test_3_4_looks_for_parts_at_the_buckets_root(old: Twin) -> None:
    """With a prefix the parts are passed over in silence, and the instance does not come up."""
    old.client("iam").upload_signing_certificate(
        CertificateBody=(_BUNDLE / "keys" / "user-cert.pem").read_text()
    )
    image = _register(old, _upload(old, "web/"))
    assert _boot(old, image)["State"]["Name"] == "terminated"


# -- the reader -------------------------------------------------------------------------------------------


def test_the_reader_gives_the_image_and_proves_it() -> None:
    """The lab's own reader gives image.sha256, and refuses a wrong key, a cut stream and a wrong digest."""
    manifest = read_manifest(_MANIFEST)
    keys = unwrap(manifest, _key())
    whole = bytearray(_IMAGE_BYTES)
    for place, data in blocks_of(manifest, [_PART_DATA[:1000], b"", _PART_DATA[1000:]], keys):
        whole[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES] = data
    assert hashlib.sha256(whole).hexdigest() == _IMAGE_SHA256
    user = serialization.load_der_private_key((_BUNDLE / "keys" / "user-pk.der").read_bytes(), None)
    with pytest.raises(BadBundle, match="not encrypted for this cloud"):
        unwrap(manifest, user)  # type: ignore[arg-type]
    with pytest.raises(BadBundle):
        list(blocks_of(manifest, [_PART_DATA[:-16]], keys))
    other = read_manifest(_MANIFEST.replace(manifest.digest.encode(), b"0" * 40))
    with pytest.raises(BadBundle, match="digest"):
        list(blocks_of(other, [_PART_DATA], keys))
    bigger = read_manifest(_MANIFEST.replace(b"<size>26214400<", b"<size>26214401<"))
    with pytest.raises(BadBundle, match="26214401"):
        list(blocks_of(bigger, [_PART_DATA], keys))


def test_the_reader_knows_a_signature() -> None:
    """The user's certificate verifies the manifest, the cloud's does not, and a changed byte breaks it."""
    user, cloud = ((_BUNDLE / "keys" / f"{name}-cert.pem").read_bytes() for name in ("user", "cloud"))
    assert is_signed_by(read_manifest(_MANIFEST), [cloud, user])
    assert not is_signed_by(read_manifest(_MANIFEST), [cloud])
    assert not is_signed_by(read_manifest(_MANIFEST.replace(b"26214400", b"26214401")), [user])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<manifest/>",
        b"<!DOCTYPE m [<!ENTITY a 'b'>]><manifest><image/></manifest>",
        _MANIFEST[:-30],
        _MANIFEST.replace(b'<part index="0">', b'<part index="x">'),
        _MANIFEST.replace(b"<size>26214400<", b"<size>many<"),
    ],
)
def test_the_reader_refuses_what_is_no_manifest(text: bytes) -> None:
    """Broken, foreign and hostile manifests are one kind of error."""
    with pytest.raises(BadBundle):
        read_manifest(text)


def test_the_reader_reads_sparse_members_of_several_gzip_streams() -> None:
    """Amazon's own tools write sparse tar members; compressors in parallel write several gzip members."""
    import gzip
    from dataclasses import replace

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    image = bytes(2 * BLOCK_BYTES) + hashlib.shake_256(b"x").digest(1000) + bytes(BLOCK_BYTES - 1000)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("image")
        member.size = len(image)
        archive.addfile(member, io.BytesIO(image))
    stream = raw.getvalue()
    packed = gzip.compress(stream[:700_000]) + gzip.compress(stream[700_000:])
    packed += bytes([16 - len(packed) % 16]) * (16 - len(packed) % 16)
    key, iv = bytes(range(16)), bytes(range(16, 32))
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    secret = cipher.update(packed) + cipher.finalize()
    manifest = replace(
        read_manifest(_MANIFEST), size_bytes=len(image), digest=hashlib.sha1(stream).hexdigest()
    )
    found = dict(blocks_of(manifest, [secret], (key, iv)))
    assert found == {2: image[2 * BLOCK_BYTES :]}
