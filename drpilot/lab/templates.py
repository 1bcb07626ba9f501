"""Launch templates and their versions."""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.lookup import find, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for
from drpilot.lab.tokens import once

__all__ = ["template_data"]

kind("templates", "launch-template")


def _template(cloud: Cloud, given: dict[str, Any]) -> Row:
    """The template that a call or a specification names by id or name."""
    if given.get("LaunchTemplateId"):
        return find(cloud, "templates", given["LaunchTemplateId"])
    name = given.get("LaunchTemplateName")
    for key, row in cloud.table("templates").peek().items():
        if name and row["LaunchTemplateName"] == name:
            return cloud.table("templates")[key]
    if not name:
        raise Refusal("MissingParameter", "Either LaunchTemplateId or LaunchTemplateName must be specified.")
    raise Refusal(
        "InvalidLaunchTemplateName.NotFoundException",
        f"The specified launch template, with template name {name}, does not exist.",
    )


def _number(row: Row, version: str | None) -> int:
    if version in (None, "", "$Default"):
        return int(row["DefaultVersionNumber"])
    if version == "$Latest":
        return int(row["LatestVersionNumber"])
    if not str(version).isdigit() or str(version) not in row["_versions"]:
        raise Refusal(
            "InvalidLaunchTemplateId.VersionNotFound",
            f"Could not find the specified version {version} for the launch template with ID "
            f"{row['LaunchTemplateId']}.",
        )
    return int(str(version))


def template_data(cloud: Cloud, given: dict[str, Any]) -> tuple[Row, int, dict[str, Any]]:
    """The template a LaunchTemplateSpecification names, the version's number and its data."""
    row = _template(cloud, given)
    number = _number(row, given.get("Version"))
    return row, number, row["_versions"][str(number)]["LaunchTemplateData"]


def _version(cloud: Cloud, row: Row, number: int, data: dict[str, Any], note: str | None) -> Row:
    if not data:
        raise Refusal("MissingParameter", "The launch template data must not be empty.")
    version = {
        "LaunchTemplateId": row["LaunchTemplateId"],
        "LaunchTemplateName": row["LaunchTemplateName"],
        "VersionNumber": number,
        "VersionDescription": note,
        "CreateTime": cloud.stamp(),
        "CreatedBy": f"arn:aws:iam::{cloud.account}:user/{cloud.name}-operator",
        "LaunchTemplateData": data,
    }
    row["_versions"][str(number)] = version
    row["LatestVersionNumber"] = number
    return version


@action("ec2", "CreateLaunchTemplate")
def create_launch_template(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A template with its version 1."""
    name, tags = params["LaunchTemplateName"], tags_for(params, "launch-template")

    def make() -> dict[str, Any]:
        if not 3 <= len(name) <= 128:
            raise Refusal("InvalidLaunchTemplateName.MalformedException", f"The name {name!r} is not valid")
        if any(row["LaunchTemplateName"] == name for row in cloud.table("templates").peek().values()):
            raise Refusal(
                "InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use."
            )
        template_id = cloud.new_id("lt")
        row: Row = {
            "LaunchTemplateId": template_id,
            "LaunchTemplateName": name,
            "CreateTime": cloud.stamp(),
            "CreatedBy": f"arn:aws:iam::{cloud.account}:user/{cloud.name}-operator",
            "DefaultVersionNumber": 1,
            "LatestVersionNumber": 1,
            "Tags": tags,
            "_versions": {},
        }
        _version(cloud, row, 1, params["LaunchTemplateData"], params.get("VersionDescription"))
        cloud.table("templates")[template_id] = row
        return {"LaunchTemplate": {key: value for key, value in row.items() if key != "_versions"}}

    return once(cloud, "CreateLaunchTemplate", params, make)


@action("ec2", "CreateLaunchTemplateVersion")
def create_launch_template_version(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One more version; with SourceVersion its data is that version's with the given members replaced."""

    def make() -> dict[str, Any]:
        row = _template(cloud, params)
        data = params["LaunchTemplateData"]
        if params.get("SourceVersion"):
            number = _number(row, params["SourceVersion"])
            data = {**row["_versions"][str(number)]["LaunchTemplateData"], **data}
        note = params.get("VersionDescription")
        version = _version(cloud, row, row["LatestVersionNumber"] + 1, data, note)
        return {"LaunchTemplateVersion": _shown(row, version)}

    return once(cloud, "CreateLaunchTemplateVersion", params, make)


def _shown(row: Row, version: Row) -> Row:
    return {**version, "DefaultVersion": version["VersionNumber"] == row["DefaultVersionNumber"]}


@action("ec2", "DescribeLaunchTemplates")
def describe_launch_templates(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Templates by id, name or filter."""
    if params.get("LaunchTemplateNames"):
        rows = [_template(cloud, {"LaunchTemplateName": name}) for name in params["LaunchTemplateNames"]]
    else:
        rows = read_all(cloud, "templates", params.get("LaunchTemplateIds"))
    known = {"launch-template-name": field("LaunchTemplateName"), "create-time": field("CreateTime")}
    page, token = paged(params, matching(rows, params.get("Filters"), known), least=1, most=200)
    return {"LaunchTemplates": page, "NextToken": token}


@action("ec2", "DescribeLaunchTemplateVersions")
def describe_launch_template_versions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Versions of one template, or the default or latest ones of all."""
    wanted = params.get("Versions") or []
    if params.get("LaunchTemplateId") or params.get("LaunchTemplateName"):
        templates = [_template(cloud, params)]
    elif wanted and set(wanted) <= {"$Latest", "$Default"}:
        templates = list(cloud.table("templates").peek().values())
    else:
        raise Refusal("MissingParameter", "Either LaunchTemplateId or LaunchTemplateName must be specified.")
    found = []
    for row in templates:
        numbers = dict.fromkeys(_number(row, name) for name in wanted) or sorted(
            map(int, row["_versions"]), reverse=True
        )
        least, most = int(params.get("MinVersion") or 0), int(params.get("MaxVersion") or 1_000_000)
        found += [_shown(row, row["_versions"][str(number)]) for number in numbers if least <= number <= most]
    page, token = paged(params, matching(found, params.get("Filters"), _VERSION_FILTERS), least=1, most=200)
    return {"LaunchTemplateVersions": page, "NextToken": token}


_VERSION_FILTERS = {
    "image-id": field("LaunchTemplateData", "ImageId"),
    "instance-type": field("LaunchTemplateData", "InstanceType"),
    "is-default-version": field("DefaultVersion"),
    "create-time": field("CreateTime"),
}


@action("ec2", "ModifyLaunchTemplate")
def modify_launch_template(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Change the default version."""
    row = _template(cloud, params)
    if params.get("DefaultVersion"):
        row["DefaultVersionNumber"] = _number(row, params["DefaultVersion"])
    return {"LaunchTemplate": row}


@action("ec2", "DeleteLaunchTemplate")
def delete_launch_template(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a template with all its versions."""
    row = _template(cloud, params)
    del cloud.table("templates")[row["LaunchTemplateId"]]
    return {"LaunchTemplate": row}


@action("ec2", "DeleteLaunchTemplateVersions")
def delete_launch_template_versions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove versions, but never the default one; each has its own result."""
    row = _template(cloud, params)
    done, failed = [], []
    for version in params.get("Versions") or []:
        entry = {"LaunchTemplateId": row["LaunchTemplateId"], "LaunchTemplateName": row["LaunchTemplateName"]}
        if version not in row["_versions"]:
            error = {"Code": "launchTemplateVersionDoesNotExist", "Message": f"No version {version}"}
            failed.append({**entry, "VersionNumber": version, "ResponseError": error})
        elif int(version) == row["DefaultVersionNumber"]:
            error = {"Code": "unexpectedError", "Message": "The default version can't be deleted"}
            failed.append({**entry, "VersionNumber": version, "ResponseError": error})
        else:
            del row["_versions"][version]
            done.append({**entry, "VersionNumber": version})
    return {
        "SuccessfullyDeletedLaunchTemplateVersions": done,
        "UnsuccessfullyDeletedLaunchTemplateVersions": failed,
    }
