"""From the settings of a site to botocore clients that nothing in the environment can bend.

botocore lets AWS_ENDPOINT_URL, AWS_CA_BUNDLE and others beat a named profile. Here a site gets its endpoint,
region, certificate check, proxies, timeouts and retries explicitly, and only AWS_CONFIG_FILE and
AWS_SHARED_CREDENTIALS_FILE are read, as the places of profile files. Retries of botocore are off and
idempotency tokens are never filled in: both belong to the journal and the door.

A Eucalyptus site names its front end once: `https://HOST:8773` gets the path of each service, and in
`https://{service}.DOMAIN:8773` its DNS name is put in.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.configprovider import (
    DEFAULT_S3_CONFIG_VARS,
    ConfigChainFactory,
    ConfiguredEndpointProvider,
    SectionConfigProvider,
)
from botocore.exceptions import BotoCoreError
from botocore.handlers import base64_encode_user_data, generate_idempotent_uuid
from botocore.model import OperationModel
from urllib3.exceptions import InsecureRequestWarning

from drpilot.__about__ import __version__
from drpilot.base.errors import DrpilotError, invariant
from drpilot.clouds.connection import Timeouts
from drpilot.clouds.credentials import CredentialsReference, Keys, botocore_credentials, fixed_credentials
from drpilot.clouds.dataplane import Doorway
from drpilot.clouds.dialect import Dialect
from drpilot.clouds.dialects import DIALECTS
from drpilot.clouds.failures import NoEndpoint, TruncatedReply
from drpilot.clouds.loading import LOADER, loader_for
from drpilot.clouds.login import Login, TokenService, login_credentials
from drpilot.domain.plain import Json

__all__ = [
    "LONGEST_PRESIGNED_S",
    "Clients",
    "CredentialsReference",
    "SiteSettings",
    "dialect_of",
    "profile_region",
]

_LOCATIONS = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
# These come from variables or from the machine itself, not from the profile that was named.
_FOREIGN_PROVIDERS = ("env", "ec2-credentials-file", "boto-config", "container-role", "iam-role")
_FOREIGN_SOURCES = ("Environment", "EcsContainer")
_CONNECTIONS = 32
# Bodies that need not be signed over TLS: PutSnapshotBlock (`v4-unsigned-body` in its model) and S3's.
_UNSIGNED_PAYLOADS = frozenset({"ebs", "s3"})
LONGEST_PRESIGNED_S = 7 * 86_400
"""What a version 4 signature may last (Amazon S3 API reference, "Authenticating requests: using query parameters")."""
_UNWANTED_HANDLERS: tuple[tuple[str, Any], ...] = (
    ("before-parameter-build", generate_idempotent_uuid),
    ("before-parameter-build.ec2.RunInstances", base64_encode_user_data),
    ("before-parameter-build.autoscaling.CreateLaunchConfiguration", base64_encode_user_data),
)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What drpilot.yaml says about a site.

    `cloud` is the name of a dialect. Credentials come from `profile` (of the AWS configuration files), from
    `credentials`, from `keys` (asked when the first client is made: another tool's file), or by `login`.
    `endpoints` maps service names, or `default`, to URLs; without a profile they are the only endpoints ever used.
    `account`, when given, is compared with what the site says. `ca_bundle` is a path; `verify` False trusts any
    certificate. `signatures` (service → botocore's name) go before the dialect's.
    """

    name: str
    cloud: str
    region: str
    account: str | None = None
    profile: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    credentials: CredentialsReference | None = None
    ca_bundle: str | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    verify: bool = True
    keys: Callable[[], Keys] | None = None
    login: Login | None = None
    signatures: Mapping[str, str] = field(default_factory=dict)

    @property
    def keyed(self) -> bool:
        """Whether the keys come from somewhere else than a profile."""
        return self.credentials is not None or self.keys is not None or self.login is not None


def dialect_of(settings: SiteSettings) -> Dialect:
    """The dialect of a site; raises DrpilotError `wrong-value` for a kind of cloud nobody knows."""
    if settings.cloud not in DIALECTS:
        what = f"site {settings.name}: cloud {settings.cloud!r} is not known"
        raise DrpilotError("wrong-value", what=what, hint=f"known: {', '.join(sorted(DIALECTS))}")
    return DIALECTS[settings.cloud]


class _Session(botocore.session.Session):
    """A botocore session that reads its configuration from a profile alone."""

    def __init__(self, profile: str | None, environment: Mapping[str, str], loader: Any = LOADER) -> None:
        self._allowed = {name: environment[name] for name in _LOCATIONS if name in environment}
        super().__init__(profile=profile)
        self.register_component("data_loader", loader)
        if profile is None:  # Not even the default profile may reach a site that names none.
            self.set_config_variable("config_file", os.devnull)
            self.set_config_variable("credentials_file", os.devnull)

    def _register_config_store(self) -> None:
        super()._register_config_store()  # type: ignore[misc]
        store = self.get_component("config_store")
        factory = ConfigChainFactory(session=self, environ=self._allowed)

        def chain(instance: str | None, variable: tuple[Any, ...]) -> Any:
            return factory.create_config_chain(
                instance_name=instance,
                env_var_names=variable[1],
                config_property_names=variable[0],
                default=variable[2],
                conversion_func=variable[3],
            )

        for name, variable in self.SESSION_VARIABLES.items():
            store.set_config_provider(name, chain(name, variable))
        nested = {name: chain(name, variable) for name, variable in DEFAULT_S3_CONFIG_VARS.items()}
        store.set_config_provider("s3", SectionConfigProvider("s3", self, nested))

    def _add_configured_endpoint_provider(self, client_name: str, config_store: Any) -> None:
        config_store.set_config_provider("endpoint_url", self.endpoint_provider(client_name))

    def _create_credential_resolver(self) -> Any:
        self._refuse_foreign_sources()
        resolver = super()._create_credential_resolver()  # type: ignore[misc]
        for name in _FOREIGN_PROVIDERS:
            resolver.remove(name)
        return resolver

    def endpoint_provider(self, service: str) -> ConfiguredEndpointProvider:
        """Finds the endpoint that the profile itself gives for `service`."""
        return ConfiguredEndpointProvider(
            full_config=self.full_config,
            scoped_config=self.get_scoped_config(),
            client_name=service,
            environ={},
        )

    def _refuse_foreign_sources(self) -> None:
        profiles = self.full_config["profiles"]
        name, seen = self.get_config_variable("profile"), set[str]()
        while name is not None and name not in seen:
            seen.add(name)
            profile = profiles.get(name, {})
            if profile.get("credential_source") in _FOREIGN_SOURCES:
                what = f"profile {name} has credential_source = {profile['credential_source']}"
                raise DrpilotError("no-credentials", site=self.get_config_variable("profile"), what=what)
            name = profile.get("source_profile")


def profile_region(name: str, profile: str) -> str:
    """The region that a profile of the AWS configuration files gives site `name`; empty where it gives none.

    Raises DrpilotError `no-credentials` where there is no such profile.
    """
    session = _Session(profile, os.environ)
    try:
        return str(session.get_config_variable("region") or "")
    except BotoCoreError as error:
        raise DrpilotError("no-credentials", site=name, what=str(error)) from error


class _Given:
    """A credential resolver that has one answer."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        return self._credentials


def _whole(**event: Any) -> None:
    """Refuse an answer that is shorter than it says; urllib3 as botocore uses it lets it pass."""
    operation_model: OperationModel = event["operation_model"]
    response_dict: dict[str, Any] = event["response_dict"]
    body = response_dict.get("body")
    expected = response_dict["headers"].get("content-length")
    if (
        operation_model.http.get("method") == "HEAD"
        or not isinstance(body, bytes)
        or not str(expected).isdigit()
    ):
        return
    if response_dict["status_code"] not in (204, 304) and len(body) < int(expected):
        raise TruncatedReply(actual=len(body), expected=expected)


def _presigned_by(version: str) -> Callable[..., str | None]:
    """The signature of presigned URLs, whatever botocore would choose: it still presigns with version 2 on AWS, which
    newer regions and encrypted buckets refuse.
    """

    def chosen(signature_version: str, **_: Any) -> str | None:
        return f"{version}-query" if signature_version.endswith("-query") else None

    return chosen


def _regional(context: dict[str, Any], **_: Any) -> None:
    """A presigned URL goes to the region's own host; botocore would name the global one, which redirects."""
    context.pop("use_global_endpoint", None)


class Clients:
    """The botocore clients of one site: made when first used, kept, safe to share between threads.

    `prepare` gets the botocore session before any client is made; the lab uses it to answer in-process.
    `dialect` replaces the one `settings.cloud` names, say for shorter timeouts.
    """

    def __init__(
        self,
        settings: SiteSettings,
        *,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[botocore.session.Session], None] | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self.settings = settings
        self.dialect = dialect or dialect_of(settings)
        self._environment = os.environ if environment is None else environment
        self._prepare = prepare
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The client of `service`. Raises DrpilotError `no-credentials`, BotoCoreError for a broken profile
        and NoEndpoint when the site has no endpoint for the service.
        """
        with self._lock:
            if service not in self._clients:
                if service not in self.dialect.services:
                    raise NoEndpoint(f"{self.dialect.name} has no service {service}")
                self._clients[service] = self._make(service)
            return self._clients[service]

    def presigned(self, operation: str, params: Json, expires_s: int) -> str:
        """The URL of one call of the object store, signed as its requests are; nothing is sent. Raises as `client`
        does. Temporary keys end it with themselves.
        """
        found: str = self.client("s3").generate_presigned_url(
            xform_name(operation), Params=dict(params), ExpiresIn=expires_s
        )
        return found

    def paging(self, service: str, operation: str) -> dict[str, Any] | None:
        """How botocore describes that the listing is paged, or None where it does not."""
        try:
            found: dict[str, Any] = LOADER.load_service_model(service, "paginators-1")["pagination"]
        except BotoCoreError:
            return None
        return found.get(operation)

    def authority(self) -> str:
        """The text of the file that says who signs this site's certificates; empty where botocore's own do, or any is
        trusted. Raises DrpilotError `key-unreadable`.
        """
        with self._lock:
            if self._session is None:
                self._session = self._open()
            path = self._verify(self._session)
        if not isinstance(path, str):
            return ""
        try:
            return Path(path).read_text("ascii", "replace")
        except OSError:
            raise DrpilotError("key-unreadable", file=path, kind="certificate") from None

    def endpoint(self, service: str) -> str:
        """The URL calls to `service` go to."""
        return str(self.client(service).meta.endpoint_url)

    def doorway(self, service: str) -> Doorway:
        """What the data plane needs to know of a service's endpoint; raises as `client` does."""
        client = self.client(service)
        session = self._session
        invariant(session is not None, "a client was made without a session")
        assert session is not None
        return Doorway(
            site=self.settings.name,
            service=service,
            signing_name=client.meta.service_model.signing_name,
            region=client.meta.region_name,
            url=client.meta.endpoint_url,
            protocol=client.meta.service_model.resolved_protocol,
            signature=str(client.meta.config.signature_version),
            credentials=session.get_credentials(),
            verify=self._verify(session),
            proxies=dict(self.settings.proxies),
            timeouts=Timeouts(
                self.dialect.connect_timeout_s, read_s := self.dialect.read_s(service), 4 * read_s
            ),
            unsigned_payload=service in _UNSIGNED_PAYLOADS,
        )

    def close(self) -> None:
        """Close the connections of all clients."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _make(self, service: str) -> Any:
        if self._session is None:
            self._session = self._open()
        url = self._url(self._session, service)
        made = self._session.create_client(
            service,
            region_name=self.settings.region,
            endpoint_url=url,
            verify=self._verify(self._session),
            config=self._config(service, custom=url is not None),
        )
        if service == "s3":
            # The stubs know handlers that answer nothing; this event asks for an answer.
            signer = _presigned_by(self.dialect.presigned)
            made.meta.events.register_first("choose-signer.s3", signer)  # type: ignore[arg-type]
            made.meta.events.register("provide-client-params.s3", _regional)
        return made

    def _open(self) -> _Session:
        settings = self.settings
        if settings.profile is None and not settings.keyed:
            what = "neither a profile nor a credentials reference is given"
            raise DrpilotError("no-credentials", site=settings.name, what=what)
        loader = loader_for(self.dialect.protocols)
        session = _Session(None if settings.keyed else settings.profile, self._environment, loader)
        # For the clients botocore makes itself to fetch credentials (assumed roles); endpoints as the profile
        # says.
        session.set_default_client_config(self._config("sts", custom=False, fetching=True))
        session.set_config_variable("ca_bundle", self._verify(session))
        # The journal's token or none at all; and user data as the API has it, base64, for every operation
        # alike.
        for event, handler in _UNWANTED_HANDLERS:
            session.unregister(event, handler)
        session.register("before-parse", _whole)
        if settings.keyed:
            session.register_component("credential_provider", _Given(self._credentials()))
        if self._prepare is not None:
            self._prepare(session)
        return session

    def _credentials(self) -> Any:
        settings = self.settings
        if settings.credentials is not None:
            return botocore_credentials(settings.name, settings.credentials, self._environment)
        if settings.keys is not None:
            return fixed_credentials(settings.keys())
        assert settings.login is not None
        return login_credentials(settings.name, settings.login, self.token_service(), self._environment)

    def token_service(self) -> TokenService:
        """Where a login by password gets its keys; NoEndpoint where the settings give none."""
        url = self.url("sts")
        if url is None:
            raise NoEndpoint(f"{self.settings.name} has no endpoint for sts")
        return TokenService(url, self._verify(None))

    def _verify(self, session: _Session | None) -> Any:
        """The path of the certificates to trust, True for those botocore brings along, or False for any; never
        the environment's.
        """
        if not self.settings.verify:
            # Said once, by the check of the site, not at each request.
            warnings.filterwarnings("ignore", category=InsecureRequestWarning)
            return False
        if session is None:
            return self.settings.ca_bundle or True
        return self.settings.ca_bundle or session.get_scoped_config().get("ca_bundle") or True

    def url(self, service: str) -> str | None:
        """The endpoint that the settings give for `service`, whole; None where they give none."""
        endpoints = self.settings.endpoints
        return endpoints.get(service) or self._composed(service, endpoints.get("default"))

    def _composed(self, service: str, base: str | None) -> str | None:
        """The endpoint of a service from the one of the whole cloud; NoEndpoint where this kind can't have it."""
        if base is None or not self.dialect.paths:
            return base
        name = f"{self.dialect.name} has no {{}} for {service}"
        if "{service}" in base:
            if service not in self.dialect.names:
                raise NoEndpoint(name.format("DNS name"))
            return base.replace("{service}", self.dialect.names[service])
        if urlsplit(base).path not in ("", "/"):
            return base
        if service not in self.dialect.paths:
            raise NoEndpoint(name.format("path"))
        return base.rstrip("/") + self.dialect.paths[service]

    def _url(self, session: _Session, service: str) -> str | None:
        url, keyed = self.url(service), self.settings.keyed
        if url is None and not keyed:
            url = self._composed(service, session.endpoint_provider(service).provide())
        public = self.dialect.public_endpoints and (not keyed or not self.settings.endpoints)
        if url is None and not public:
            raise NoEndpoint(f"{self.settings.name} has no endpoint for {service}")
        return url

    def _config(self, service: str, *, custom: bool, fetching: bool = False) -> Config:
        strict: dict[str, Any] = {"ignore_configured_endpoint_urls": True} if not fetching else {}
        if custom:  # Checksums newer than a compatible store, and bucket names in host names, are AWS's own.
            strict["request_checksum_calculation"] = strict["response_checksum_validation"] = "when_required"
        signatures = {**self.dialect.signatures, **self.settings.signatures}
        if service in signatures:
            strict["signature_version"] = signatures[service]
        path = custom or self.dialect.bucket_in_path
        return Config(
            region_name=self.settings.region,
            connect_timeout=self.dialect.connect_timeout_s,
            read_timeout=self.dialect.read_s(service),
            retries={"total_max_attempts": 1, "mode": "standard"},
            proxies=dict(self.settings.proxies),
            max_pool_connections=_CONNECTIONS,
            user_agent=f"drpilot/{__version__} botocore/{botocore.__version__}",
            s3={"addressing_style": "path"} if path else {"us_east_1_regional_endpoint": "regional"},
            **strict,
        )
