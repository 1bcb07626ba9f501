"""An image that lies in a bucket as a bundle, on its way to another cloud.

Two deeds of a work by hand: unpack it into a snapshot of the target, or give it a new manifest and register that. Both
need the private key of the bundle's owner. A bundle that its cloud made of a running instance (BundleInstance) is
sealed for that cloud alone, whose nodes seal both keys for the cloud's certificate: nobody else can open it.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from drpilot.actions import images, landing
from drpilot.actions.images import BY_HAND
from drpilot.actions.views import made_here, snapshots, specification
from drpilot.base.errors import DrpilotError
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Answer,
    CloudError,
    Done,
    FailureClass,
    Site,
    Unseen,
    Waiting,
)
from drpilot.formats import seal
from drpilot.formats.manifest import Manifest
from drpilot.services.byhand import Hand, Stage
from drpilot.transfer.absence import is_absent
from drpilot.transfer.bucket import Address, BucketParts, NewBucketBundle, present, read_manifest
from drpilot.transfer.bundlekey import bundling_key
from drpilot.transfer.bundling import manifest_name
from drpilot.transfer.copy import Order, Tally, copy
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.newbucket import prepare
from drpilot.transfer.pace import Pace
from drpilot.transfer.retargeting import Target, checked_part, retargeted
from drpilot.transfer.snapshots import Ebs, NewSnapshot, SnapshotSink
from drpilot.transfer.stream import PushedSource
from drpilot.transfer.unbundling import check_signature, secrets_of, unbundle

__all__ = ["BundleKeys", "Bundled", "Retarget", "Unbundle", "bundle_of"]

_AT_ONCE = 32
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class BundleKeys:
    """What opens a bundle, with the name of its file for messages, and the certificate of the cloud it goes to (None:
    asked of the cloud).
    """

    private: RSAPrivateKey | None = field(default=None, repr=False)
    name: str = ""
    cloud: RSAPublicKey | None = None


@dataclass(frozen=True, slots=True)
class Bundled:
    """An image's bundle, opened. `file` is the name of its manifest, `cloud` the key that the target opens bundles
    with (None where it need not).
    """

    image: str
    address: Address
    file: str
    manifest: Manifest
    secrets: seal.Secrets = field(repr=False)
    signer: RSAPrivateKey = field(repr=False)
    cloud: RSAPublicKey | None = None


def bundle_of(stage: Stage, described: Json, keys: BundleKeys) -> Bundled:
    """The bundle of a described image; nothing of it is fetched but the manifest.

    Raises CloudError, and DrpilotError `usage` without a key, `image-unusable`, `bundle-sealed`, `signature-wrong`, and
    those of reading a manifest.
    """
    image, source = str(described["ImageId"]), stage.source
    location = str(described.get("ImageLocation") or "")
    if keys.private is None:
        what = f"{image} is a bundle in a bucket ({location}): only its owner's private key opens it"
        raise DrpilotError("usage", what=what, hint="--private-key FILE")
    address = Address.of(location)
    manifest, _ = read_manifest(source, address)
    if manifest.kind != "machine":
        raise _unusable(image, source, f"its bundle holds a {manifest.kind}")
    if manifest.machine.kernel_id or described.get("VirtualizationType") == "paravirtual":
        kernel = manifest.machine.kernel_id or described.get("KernelId") or "of its own cloud"
        what = f"it is a partition that boots with kernel {kernel}, not a whole disk"
        error = _unusable(image, source, what)
        error.hint = (
            "with a kernel of the other cloud: drpilot bundle download, then bundle retarget --kernel ID,"
            " then bundle upload, and register it there with that kernel"
        )
        raise error
    try:
        secrets, who = secrets_of(manifest, keys.private, keys.name)
    except DrpilotError as error:
        if error.word != "wrong-key":
            raise
        raise DrpilotError(
            "bundle-sealed", key=keys.name, image=image, user=manifest.user, site=source.name
        ) from error
    if manifest.is_signed and who == "owner":
        check_signature(manifest, keys.private.public_key(), location, keys.name)
    cloud = None if "ebs" in stage.target.capabilities else keys.cloud or bundling_key(stage.target)
    file = address.key.rpartition("/")[2]
    return Bundled(image, address, file, manifest, secrets, keys.private, cloud)


def _unusable(image: str, site: Site, what: str) -> DrpilotError:
    return DrpilotError("image-unusable", image=image, site=site.name, what=what)


# -- into a snapshot --------------------------------------------------------------------------------------------------


class Unbundle:
    """Unpack a bundle and write its image into a snapshot on the target, zeros left out.

    StartSnapshot takes a ClientToken and the ledger knows what is written: a repeat unpacks again and sends what is
    missing. The snapshot is completed only when every digest of the bundle was right.
    """

    def start(self, ctx: Hand, given: Bundled) -> Answer[landing.LandedOutput]:
        """Write it."""
        source = _source(ctx, given)
        token = landing.begun_token(ctx)
        head = Head(source.identity, ctx.target, "", source.size_bytes, token)
        tags = _tags(ctx, given.image) | {"drpilot:attempt": token}
        made = NewSnapshot(f"drpilot:{ctx.name}/{ctx.path}", None, given.image, tags)
        ebs = _ebs(ctx)
        with closing(source), landing.kept_ledger(ctx, token) as ledger:
            try:
                with closing(SnapshotSink(ebs, made)) as sink:
                    copy(Order(source, sink, ledger, head, None, self._progress(ctx, given)))
            except DrpilotError:
                _forget(ebs, ledger)  # the bundle is not what it says: nothing half-written stays
                raise
        return Waiting({}, after_s=1.0)

    @staticmethod
    def _progress(ctx: Hand, given: Bundled) -> Any:
        total = max(1, -(-given.manifest.size_bytes // (512 * 1024)))

        def told(tally: Tally) -> None:
            ctx.tell(tally.written / total, f"{tally.written} blocks of 512 KiB written")

        return told

    def observe(self, ctx: Hand, given: Bundled) -> Answer[landing.LandedOutput]:
        """The completed snapshot with this work's tags."""
        found = [item for item in snapshots(ctx.site("target"), made_here(ctx)) if item["State"] != "error"]
        done = [item for item in found if item["State"] == "completed"]
        if not done:
            return Unseen(True, f"no completed snapshot of {given.image} with our tags on {ctx.target}")
        return Done(
            landing.LandedOutput(
                snapshot=done[0]["SnapshotId"],
                source_snapshot=given.image,
                size_gib=int(done[0]["VolumeSize"]),
            )
        )


def _source(ctx: Hand, given: Bundled) -> PushedSource:
    manifest = given.manifest
    parts = BucketParts(ctx.site("source"), given.address, manifest.name)
    name = f"bundle:{given.address.bucket}/{given.address.key}@{ctx.source}#{manifest.tar_sha1}"
    return PushedSource(
        manifest.size_bytes, name, lambda sink: unbundle(manifest, given.secrets, parts, sink)
    )


def _ebs(ctx: Hand) -> Ebs:
    site = ctx.site("target")
    pace = Pace(ctx.clock, ctx.transfers.chance, most=_AT_ONCE, start=8)
    return Ebs(site, ctx.transfers.plane(site.name), pace, ctx.clock)


def _tags(ctx: Hand, image: str) -> dict[str, str]:
    return ctx.tags(tier=BY_HAND, member=image, **{"source-image": image})


def _forget(ebs: Ebs, ledger: Ledger) -> None:
    snapshot = ledger.state.get("snapshot")
    if snapshot is not None:
        try:
            ebs.site.call("ec2", "DeleteSnapshot", {"SnapshotId": snapshot})
        except CloudError as error:
            if error.kind is not FailureClass.NOT_FOUND:
                return  # it was never completed, so the cloud ends it by itself
    ledger.close(remove=True)


# -- under a new manifest ---------------------------------------------------------------------------------------------


class RetargetedOutput(images.ImageOutput):
    """The image on the target, and where its manifest is."""

    location: str = ""


@dataclass(frozen=True, slots=True)
class Retarget:
    """Put a bundle into a bucket of the target under a new manifest, and register it.

    Parts that are there already, by size and MD5, are not sent again; the manifest goes last, so with it the bundle
    is complete. RegisterImage takes no token: the image is found by its tags, or its description.
    """

    place: str
    account: str
    name: str

    def start(self, ctx: Hand, given: Bundled) -> Answer[RetargetedOutput]:
        """Upload what is missing, and register."""
        site, address = ctx.site("target"), Address.of(self.place)
        prepare(site, address.bucket, create=True, acls=True, clock=ctx.clock)
        found = present(site, address, manifest_name(given.manifest.name))
        if found is not None and not self._same(site, address, given):
            key = address.below(manifest_name(given.manifest.name))
            raise DrpilotError("bundle-exists", site=site.name, bucket=address.bucket, key=key)
        self._upload(ctx, given, address, whole=found is None)
        location = f"{address.bucket}/{address.below(manifest_name(given.manifest.name))}"
        site.call("ec2", "RegisterImage", self._params(ctx, given, location))
        return Waiting({}, after_s=1.0)

    def _params(self, ctx: Hand, given: Bundled, location: str) -> Json:
        return {
            "ImageLocation": location,
            "Name": self.name,
            "Description": f"drpilot:{ctx.name}/{ctx.path}",
            "Architecture": given.manifest.machine.architecture,
            "VirtualizationType": "hvm",  # or the cloud takes it for a partition and wants a kernel
            "TagSpecifications": [specification("image", _tags(ctx, given.image))],
        }

    def _same(self, site: Site, address: Address, given: Bundled) -> bool:
        """Whether the bundle that is there is this one for this account."""
        at = Address(address.bucket, address.below(manifest_name(given.manifest.name)))
        there, _ = read_manifest(site, at)
        return (there.user, there.parts, there.tar_sha1) == (
            self.account,
            given.manifest.parts,
            given.manifest.tar_sha1,
        )

    def _upload(self, ctx: Hand, given: Bundled, address: Address, *, whole: bool) -> None:
        """Send the parts that are missing, also where the manifest is there: somebody may have deleted some of them."""
        manifest, site = given.manifest, ctx.site("target")
        assert given.cloud is not None
        written = retargeted(manifest, given.secrets, Target(given.cloud, given.signer, user=self.account))
        source = BucketParts(ctx.site("source"), given.address, manifest.name)
        sink, left = NewBucketBundle(site, address), manifest.bundled_bytes
        try:
            for index, part in enumerate(manifest.parts):
                if not _lies(ctx, given, address, part.name):
                    data = checked_part(manifest, part, source, left)
                    sink.part(part.name, data)
                ctx.tell((index + 1) / len(manifest.parts), f"part {index + 1} of {len(manifest.parts)}")
            if whole:
                sink.manifest(manifest_name(manifest.name), written)
            else:
                sink.settle()
        except DrpilotError:
            sink.discard()
            raise

    def observe(self, ctx: Hand, given: Bundled) -> Answer[RetargetedOutput]:
        """The image with this work's tags."""
        found, adopted = images.standing(ctx, images.TierInput(tier=BY_HAND))
        if found is None:
            return Unseen(False, f"no image with our tags on {ctx.target}")
        if found["State"] != "available":
            return Waiting({"image": found["ImageId"]}, after_s=5.0)
        location = str(found.get("ImageLocation") or "")
        return Done(
            RetargetedOutput(
                image=found["ImageId"], source_image=given.image, adopted=adopted, location=location
            )
        )


def _lies(ctx: Hand, given: Bundled, address: Address, name: str) -> bool:
    """Whether a part is on the target as it is on the source: equal sizes, equal ETags that are MD5s."""
    there = _head(ctx.site("target"), address.bucket, address.below(name))
    if there is None or len(there[1]) != hashlib.md5(usedforsecurity=False).digest_size * 2:
        return False
    return there == _head(ctx.site("source"), given.address.bucket, given.address.beside(name))


def _head(site: Site, bucket: str, key: str) -> tuple[int, str] | None:
    try:
        reply = site.call("s3", "HeadObject", {"Bucket": bucket, "Key": key})
    except CloudError as error:
        if is_absent(error):
            return None
        raise
    return int(reply["ContentLength"]), str(reply["ETag"]).strip('"')
