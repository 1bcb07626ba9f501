"""The ini files of euca2ools on this machine, read in place: what `euca2ools: user@region` of a site leads to.

Only the places of files come from the environment: EUCA_CONFIG_PATH, else `/etc/euca2ools` and `~/.euca`. No
variable with a key, an endpoint or a region is looked at, though euca2ools itself would let them win.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from drpilot.base.errors import DrpilotError
from drpilot.formats.euca2ools import Config, Selection, parse, select

__all__ = ["SERVICES", "Resolved", "files", "load", "resolve"]

DEFAULT_PATH = "/etc/euca2ools/euca2ools.ini:/etc/euca2ools/conf.d/*.ini:~/.euca/*.ini"
_FILES_MAX = 200
_BYTES_MAX = 1 << 20

SERVICES: Mapping[str, str] = {
    "autoscaling": "autoscaling",
    "bootstrap": "bootstrap",
    "ec2": "ec2",
    "elasticloadbalancing": "elb",
    "iam": "iam",
    "monitoring": "cloudwatch",
    "route53": "route53",
    "s3": "s3",
    "sts": "sts",
}
"""euca2ools' names of services → botocore's."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the files say of a site. `endpoints` is by botocore's service names, with `default` for the rest of a
    Eucalyptus cloud; empty for AWS itself, whose endpoints are known. The secret never prints.
    """

    user: str
    region_name: str
    endpoints: Mapping[str, str]
    key_id: str
    secret: str = field(repr=False)
    account: str = ""
    verify: bool = False
    s3_sigv4: bool = False
    selection: Selection | None = field(default=None, repr=False)

    @property
    def is_aws(self) -> bool:
        """Whether the region is one of AWS's own."""
        return not self.endpoints


def files(environment: Mapping[str, str] | None = None) -> list[Path]:
    """The files in the order they are read: EUCA_CONFIG_PATH replaces the default list; each pattern is sorted."""
    environment = os.environ if environment is None else environment
    found: list[Path] = []
    for pattern in (environment.get("EUCA_CONFIG_PATH") or DEFAULT_PATH).split(":"):
        if pattern:
            opened = str(Path(_expanded(pattern, environment)).expanduser())
            found += [Path(name) for name in sorted(glob.glob(opened))]  # noqa: PTH207 - patterns are absolute
    return [path for path in found if path.is_file()][:_FILES_MAX]


def _expanded(pattern: str, environment: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced by the given environment; an unknown one stays as it is written."""
    return re.sub(
        r"\$(?:(\w+)|\{([^}]*)\})", lambda match: environment.get(match[1] or match[2], match[0]), pattern
    )


def load(environment: Mapping[str, str] | None = None) -> Config:
    """All files merged; raises DrpilotError `euca-ini` with file and line."""
    environment = os.environ if environment is None else environment
    paths = files(environment)
    if not paths:
        what = f"no ini file in {environment.get('EUCA_CONFIG_PATH') or DEFAULT_PATH}"
        raise DrpilotError("euca-ini", what=what, hint="set EUCA_CONFIG_PATH, or put a file into ~/.euca")
    texts = []
    for path in paths:
        try:
            if path.stat().st_size > _BYTES_MAX:
                raise DrpilotError("euca-ini", what=f"{path}: larger than 1 MiB", hint="is it an ini file?")
            texts.append((str(path), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise DrpilotError("euca-ini", what=f"{path}: {why}", hint="mend the file") from None
    try:
        return parse(texts)
    except ValueError as error:
        raise DrpilotError("euca-ini", what=str(error), hint="mend the file") from None


def resolve(text: str, environment: Mapping[str, str] | None = None) -> Resolved:
    """What `user@region` means by the files as they are now; raises DrpilotError `euca-ini`."""
    try:
        selection = select(load(environment), text)
    except ValueError as error:
        raise DrpilotError(
            "euca-ini", what=str(error), hint="mend the ini files, or name USER@REGION"
        ) from None
    urls = {SERVICES[name]: url for name, url in selection.urls.items() if name in SERVICES}
    hosts = [urlsplit(url).hostname or "" for url in selection.urls.values()]
    own = all(re.search(r"\.amazonaws\.com(\.cn)?$", host) for host in hosts)
    if not own and "default" not in urls and "ec2" in urls:
        urls["default"] = _front_end(urls["ec2"])
    return Resolved(
        user=selection.user,
        region_name=selection.signing.get("ec2") or next(iter(selection.signing.values())),
        endpoints={} if own else urls,
        key_id=selection.key_id,
        secret=selection.secret_key,
        account=selection.account_id,
        verify=selection.verify_ssl,
        s3_sigv4=selection.s3_sigv4,
        selection=selection,
    )


def _front_end(url: str) -> str:
    """The front end an EC2 endpoint belongs to: its host alone, or the pattern of its DNS names."""
    parts = urlsplit(url)
    host = re.sub(r"^(ec2|compute|eucalyptus)\.", "{service}.", parts.netloc)
    return f"{parts.scheme}://{host if parts.path in ('', '/') else parts.netloc}"
