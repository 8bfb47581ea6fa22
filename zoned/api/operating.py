"""What those who run a zone ask: health and metrics; over the admin socket also mutes, log level and configuration."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response

from conf import ConfigError
from zoned import health as core
from zoned.api.answers import by_method, reply, zone_of
from zoned.api.documents import parse_object
from zoned.api.problems import Problem, bad
from zoned.logs import LEVELS
from zoned.settings import Change, flat
from zoned.zone import Zone

MUTE_S_MAX = 30 * 86_400.0

logger = structlog.get_logger()


def metrics(zone: Zone) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for Prometheus."""

    async def scrape(request: Request) -> Response:
        # Brings an HTTP server of its own along: 2 MiB that only those pay who are scraped.
        from zoned.metrics import CONTENT_TYPE, make_metrics, render

        return Response(render(make_metrics(zone)), headers={"Content-Type": CONTENT_TYPE})

    return scrape


async def health(request: Request) -> Response:
    """What is the matter, by the caller's bounds if it names any; with `fail=warning` or `critical`, 503 from there."""
    zone, asked = zone_of(request), request.query_params
    bounds = core.WELL
    if "max_staleness" in asked:
        bounds = replace(bounds, staleness_s=_number(asked, "max_staleness"))
    if "min_runway_days" in asked:
        bounds = replace(bounds, runway_days=_number(asked, "min_runway_days"))
    if "max_buffer" in asked:
        bounds = replace(bounds, journal_entries=int(_number(asked, "max_buffer")))
    fail = asked.get("fail", "")
    if fail not in ("", "warning", "critical"):
        raise bad("fail must be warning or critical", "bad-query")
    report = zone.health(bounds)
    failed = bool(fail) and report.status.value >= core.Severity[fail.upper()].value
    return reply(health_document(report), 503 if failed else 200)


def _number(asked: Mapping[str, str], name: str) -> float:
    text = asked[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 2**53:
        raise bad(f"{name} must be a number of at least 0, is {text[:40]!r}", "bad-query")
    return number


def health_document(report: core.Report) -> dict[str, Any]:
    """A report as the API shows it."""
    return {
        "status": report.status.name.lower(),
        "findings": [
            {
                "code": one.code,
                "severity": one.severity.name.lower(),
                "summary": one.summary,
                "means": core.CODES[one.code].means,
                "do": core.CODES[one.code].do,
                "muted_s": round(one.muted_s) if one.muted_s is not None else None,
            }
            for one in report.findings
        ],
    }


async def mute(request: Request) -> Response:
    """`{"code": CODE, "for_s": SECONDS}`; 0 lets it speak again."""
    zone, asked = zone_of(request), parse_object(await request.body())
    code, for_s = asked.get("code"), asked.get("for_s")
    if code not in core.CODES:
        raise Problem(404, "no-code", f"no health code {str(code)[:40]!r}; known: {', '.join(sorted(core.CODES))}")
    if type(for_s) not in (int, float) or not 0 <= float(str(for_s)) <= MUTE_S_MAX:
        raise bad(f"for_s must be 0 to {MUTE_S_MAX:.0f} seconds", "bad-body")
    seconds = float(str(for_s))
    if seconds:
        zone.mutes.mute(str(code), trio.current_time() + seconds, zone.findings())
    else:
        zone.mutes.unmute(str(code))
    logger.info("health code muted" if seconds else "health code unmuted", code=code, for_s=seconds)
    return reply(health_document(zone.health()))


async def show_log(request: Request) -> Response:
    return reply(asdict(zone_of(request).settings.config.log))


async def change_log(request: Request) -> Response:
    """`{"level": LEVEL}`, `{"requests": BOOL}` or both, until the next reload or start."""
    settings, asked = zone_of(request).settings, parse_object(await request.body())
    level, requests = asked.get("level"), asked.get("requests")
    if not asked or set(asked) - {"level", "requests"} or level not in (None, *LEVELS):
        raise bad(f'say {{"level": one of {", ".join(LEVELS)}}} or {{"requests": true or false}}', "bad-body")
    if requests is not None and not isinstance(requests, bool):
        raise bad("requests must be true or false", "bad-body")
    if level is not None:
        settings.set("log.level", level)
    if requests is not None:
        settings.set("log.requests", requests)
    return await show_log(request)


async def config(request: Request) -> Response:
    """The configuration in force: every key with its value, and where it comes from."""
    settings = zone_of(request).settings
    written, problem = {}, None
    try:
        written = {change.key: change for change in settings.changes()}
    except ConfigError as error:
        problem = str(error)
    keys = [
        {"key": key, "value": value, "file": written[key].file if key in written else value}
        for key, value in flat(settings.config)
    ]
    return reply({"path": str(settings.path) if settings.path else None, "problem": problem, "settings": keys})


async def reload(request: Request) -> Response:
    """Puts in force what the file says, as far as that needs no restart."""
    try:
        changes = zone_of(request).settings.reload()
    except ConfigError as error:
        raise Problem(409, "bad-configuration", str(error)) from None
    return reply({"changed": _changes(changes, True), "after_a_restart": _changes(changes, False)})


def _changes(changes: list[Change], live: bool) -> list[dict[str, Any]]:
    return [{"key": one.key, "was": one.now, "file": one.file} for one in changes if one.is_live is live]


routes = [by_method("/health", GET=health)]
admin_routes = [
    by_method("/admin/v1/health/mute", POST=mute),
    by_method("/admin/v1/log", GET=show_log, POST=change_log),
    by_method("/admin/v1/config", GET=config),
    by_method("/admin/v1/config/reload", POST=reload),
]
