"""What is the matter with this zone."""

from zoned.zone import Zone


def status_line(zone: Zone) -> str:
    """The zone in one line, for the service manager."""
    status = zone.status()
    registry, bound_s = status["registry"], status["staleness_s"]
    who = f"{registry['role']}, registry in {registry['zone']}" if registry["known"] else "no registry known: buffering"
    return who + (f", {bound_s:.0f} s behind at most" if bound_s is not None else "")
