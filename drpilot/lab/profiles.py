"""IAM, as far as a launch needs it: whether an instance profile exists.

Nobody makes profiles in the lab: any name is good unless the tunable `instance_profiles` lists those there are, for a
launch (launch.py) and for this look alike.
"""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud, action
from drpilot.lab.launch import profile_of
from drpilot.lab.refusal import Refusal

__all__ = ["get_instance_profile"]


@action("iam", "GetInstanceProfile")
def get_instance_profile(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One profile by its name (IAM API reference, GetInstanceProfile)."""
    name = params["InstanceProfileName"]
    known = cloud.setting("instance_profiles", None)
    if known is not None and name not in known:
        raise Refusal("NoSuchEntity", f"Instance Profile {name} cannot be found.", 404)
    found = profile_of(cloud, {"Name": name})
    shown = {"Path": "/", "InstanceProfileName": name, "InstanceProfileId": found["Id"], "Arn": found["Arn"]}
    return {"InstanceProfile": {**shown, "CreateDate": cloud.stamp(), "Roles": []}}
