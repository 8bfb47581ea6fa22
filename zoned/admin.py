"""What only the operator of this node may do, over the Unix socket: steer the registry, back up, verify.

The socket serves the public application as well, so that zonectl needs nothing else. Its file is for its owner only.
"""

from collections.abc import AsyncIterator
from typing import BinaryIO

import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from store import snapshot
from store.database import Database
from zoned import clock
from zoned.api import documents
from zoned.api.answers import by_method, reply, zone_of
from zoned.api.problems import Problem, bad
from zoned.autopilot import SteerRefused
from zoned.bootstrap import FOLDER
from zoned.replication import Replication


def admin_routes(replication: Replication, database: Database) -> list[BaseRoute]:
    """The routes that only the admin socket has."""

    async def steer(request: Request) -> Response:
        action = request.path_params["action"]
        asked = documents.parse_object(await request.body() or b"{}")
        target = asked.get("node", "")
        if action not in ("transfer", "add", "remove") or not isinstance(target, str):
            raise bad("the registry is steered by transfer, add or remove, with a node ID")
        try:
            return reply({"begun": await replication.steer(action, target)})
        except SteerRefused as error:
            raise Problem(409, "steer-refused", str(error)) from None

    async def recover(request: Request) -> Response:
        asked = documents.parse_object(await request.body() or b"{}")
        plan = replication.recovery_plan()
        if asked.get("confirm") is True:
            if plan["possible"] is not True:
                raise Problem(409, "recover-refused", str(plan["why_not"]))
            try:
                await replication.recover()
            except SteerRefused as error:
                raise Problem(409, "recover-refused", str(error)) from None
        return reply({**plan, "done": asked.get("confirm") is True})

    async def backup(request: Request) -> Response:
        if not zone_of(request).is_synced:
            # With --keep it would take the place of one that holds something.
            problem = "this zone has not received the catalogue yet: there is nothing to back up; zonectl wait synced"
            raise Problem(409, "unsynced", problem)
        folder = database.path.parent / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        target = folder / f"backup-{id(request):x}"
        made = await database.copy(lambda source: snapshot.write(source, target))
        file = await trio.to_thread.run_sync(target.open, "rb")
        await trio.to_thread.run_sync(target.unlink)  # it lives on as long as it is open
        zone_of(request).backed_up_at = clock.wall()
        headers = {
            "Content-Length": str(made.bytes),
            "Zone-Backup-Position": str(made.position),
            "Zone-Backup-SHA256": made.sha256,
        }
        return StreamingResponse(_parts(file), 200, headers, "application/octet-stream")

    async def verify(request: Request) -> Response:
        return reply(await replication.verifier.verify(deep=request.query_params.get("deep") == "1"))

    async def verify_audit(request: Request) -> Response:
        return reply(await replication.verifier.verify_audit())

    return [
        by_method("/admin/v1/registry/recover", POST=recover),
        by_method("/admin/v1/registry/{action}", POST=steer),
        by_method("/admin/v1/backup", POST=backup),
        by_method("/admin/v1/verify", POST=verify),
        by_method("/admin/v1/audit/verify", POST=verify_audit),
    ]


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while part := await trio.to_thread.run_sync(file.read, snapshot.PART_BYTES):
            yield part
