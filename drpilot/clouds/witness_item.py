"""The witness as an item of a DynamoDB table, changed only by conditional writes.

The table has the partition key `group` (a string). An item holds the claim in `claim` and a `version`, which each write
replaces on the condition that it is still the one that was read (Amazon DynamoDB developer guide, "Condition
expressions"); the first one on the condition that there is no item. Reads are strongly consistent.
"""

from __future__ import annotations

from drpilot.base.ids import digest
from drpilot.clouds.witness import Place, read_claim, settled, written
from drpilot.domain.fence import Claim
from drpilot.domain.plain import Json
from drpilot.domain.ports import Site

__all__ = ["ItemWitness"]

_REFUSED = frozenset({"ConditionalCheckFailedException"})


class ItemWitness:
    """The witness as DynamoDB items behind a Site. Raises CloudError where the site fails."""

    def __init__(self, site: Site, table: str) -> None:
        self._site, self._table = site, table

    def read(self, group: str) -> tuple[Claim | None, str]:
        """The claim and its version; (None, "") where none was written yet."""
        params: Json = {"TableName": self._table, "Key": {"group": {"S": group}}, "ConsistentRead": True}
        item = self._site.call("dynamodb", "GetItem", params).get("Item")
        if not item:
            return None, ""
        place = Place(f"item {group} of table {self._table}", self._site.name, "dynamodb:GetItem")
        claim = read_claim(group, str(item.get("claim", {}).get("S", "")), place)
        return claim, str(item.get("version", {}).get("S", ""))

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write `claim` if the item still has version `replaces` (empty: does not exist); gives the new version.

        Raises Stale when another claim is there.
        """
        return settled(self, claim, replaces, lambda: self._put(claim, replaces), _REFUSED)

    def _put(self, claim: Claim, replaces: str) -> str:
        text = written(claim)
        version = digest([replaces, text])[:32]  # of what it replaces too: an old version never comes back
        item = {"group": {"S": claim.group}, "claim": {"S": text}, "version": {"S": version}}
        params: Json = {"TableName": self._table, "Item": item}
        if replaces:
            params |= {
                "ConditionExpression": "#version = :replaces",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": {":replaces": {"S": replaces}},
            }
        else:
            params |= {
                "ConditionExpression": "attribute_not_exists(#group)",
                "ExpressionAttributeNames": {"#group": "group"},
            }
        self._site.call("dynamodb", "PutItem", params)
        return version
