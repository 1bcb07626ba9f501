"""Bundles in a bucket: upload, download, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_size
from drpilot.cli.bundleparts import (
    ManifestFile,
    PartsFolder,
    SiteOption,
    Where,
    clouds,
    document,
    folder_of,
    manifest_of,
    meter,
    site_of,
)
from drpilot.cli.options import Folder
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.formats.manifest import Manifest
    from drpilot.transfer.codec import Uplink
    from drpilot.transfer.places import PartSink

__all__ = ["delete", "download", "into_bucket", "upload"]

ManifestKey = Annotated[
    str,
    typer.Argument(
        metavar="BUCKET/KEY",
        help="where the manifest is: BUCKET[/PREFIX]/NAME.manifest.xml",
        show_default=False,
    ),
]


def into_bucket(
    session: Session, where: Where, named: tuple[str, Uplink | None], made: Callable[[PartSink], Manifest]
) -> Answer:
    """Make a bundle called `named` under a prefix by `made`; the answer says where the image's manifest is."""
    from drpilot.transfer import bucket
    from drpilot.transfer.bundling import manifest_name
    from drpilot.transfer.newbucket import prepare

    name, uplink = named
    site = site_of(session, where.site)
    address = bucket.Address.of(where.to or "")
    with clouds(site):
        prepare(site, address.bucket, create=where.create_bucket, acls=True)
        if bucket.present(site, address, manifest_name(name)) is not None:
            raise _other(site.name, address.bucket, address.below(manifest_name(name)))
        manifest = made(bucket.NewBucketBundle(site, address, where.acl, uplink))
    return _uploaded(session, manifest, site.name, f"{address.bucket}/{address.below(manifest_name(name))}")


def _other(site: str, bucket: str, key: str) -> DrpilotError:
    return DrpilotError("bundle-exists", site=site, bucket=bucket, key=key)


def _uploaded(
    session: Session, manifest: Manifest, site: str, location: str, *, already: bool = False
) -> Answer:
    count = len(manifest.parts)
    line = f"{location} on {site}: {count} part{'s' if count != 1 else ''}, {format_size(manifest.bundled_bytes)}"
    data = {**document(manifest), "site": site, "location": location, "already_uploaded": already}
    return Answer(
        data,
        (line + (", already there" if already else ""),),
        session.command(f"bundle download {location} --site {site} --output DIR"),
    )


def upload(
    session: Session,
    manifest: ManifestFile,
    to: Annotated[
        str, typer.Argument(metavar="BUCKET[/PREFIX]", help="where the bundle goes", show_default=False)
    ],
    site: SiteOption = None,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="make the bucket if there is none")
    ] = False,
    acl: Annotated[
        str,
        typer.Option("--acl", metavar="ACL", help="the canned ACL by which the cloud may read the bundle"),
    ] = "aws-exec-read",
    parts: PartsFolder = None,
) -> Answer:
    """Put a bundle into a bucket, the manifest last; a bundle that is there already is left as it is."""
    from drpilot.transfer import bucket
    from drpilot.transfer.newbucket import prepare
    from drpilot.transfer.places import Folder as Parts

    read, data = manifest_of(manifest)
    door = site_of(session, site)
    address = bucket.Address.of(to)
    with clouds(door):
        prepare(door, address.bucket, create=create_bucket, acls=True)
        present = bucket.present(door, address, manifest.name)
        if present is not None and present != data:
            raise _other(door.name, address.bucket, address.below(manifest.name))
        if present is None:
            source = Parts(parts or manifest.parent, read.name)
            sink = bucket.NewBucketBundle(door, address, acl)
            bucket.upload(read, (manifest.name, data), source, sink)
    location = f"{address.bucket}/{address.below(manifest.name)}"
    return _uploaded(session, read, door.name, location, already=present is not None)


def download(session: Session, location: ManifestKey, folder: Folder, site: SiteOption = None) -> Answer:
    """Fetch a bundle from a bucket into a folder, each part checked."""
    from drpilot.transfer import bucket
    from drpilot.transfer.places import NewFolderBundle

    into = folder_of(folder, "bundle download")
    door = site_of(session, site)
    address = bucket.Address.of(location)
    with clouds(door):
        manifest = bucket.download(door, address, NewFolderBundle(into), meter(session, "downloaded"))
    path = into / address.key.rpartition("/")[2]
    line = f"{path}: {len(manifest.parts)} parts, {format_size(manifest.bundled_bytes)}"
    return Answer(
        {**document(manifest), "manifest": str(path)},
        (line,),
        session.command(f"bundle extract {path} --private-key FILE --output DIR"),
    )


def delete(
    session: Session,
    location: ManifestKey,
    site: SiteOption = None,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="the bundle's name, typed back")
    ] = None,
) -> Answer:
    """Delete a bundle from a bucket; an image registered from it can't be started any more."""
    from drpilot.transfer import bucket

    door = site_of(session, site)
    address = bucket.Address.of(location)
    with clouds(door):
        manifest, _ = bucket.read_manifest(door, address)
        typed = confirm or session.terminal.ask(f"Type the bundle's name to delete it: ({manifest.name}) ")
        if typed != manifest.name:
            raise DrpilotError(
                "consent-missing",
                verb="delete",
                group=f"bundle {manifest.name}",
                hint=f"--confirm {manifest.name}",
                data={"needs": {"confirm": manifest.name}},
            )
        bucket.delete(door, address)
    names = [*(part.name for part in manifest.parts), address.key.rpartition("/")[2]]
    return Answer(
        {"site": door.name, "location": location, "deleted": names},
        (f"{location} on {door.name}: {len(names)} objects deleted",),
        session.command(f"site check {door.name}"),
    )
