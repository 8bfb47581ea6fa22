"""What a witness answers: operators' questions. Whatever is about images is for other nodes to answer."""

from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.problems import Problem, native

SERVED = (
    *("/livez", "/metrics", "/openapi.json", "/docs", "/ui", "/admin/v1/"),
    *("/zone/v1/status", "/zone/v1/health", "/zone/v1/zones", "/zone/v1/reachability", "/zone/v1/gossip"),
    *("/zone/v1/overview", "/zone/v1/registry", "/zone/v1/trend"),
)
DETAIL = "this node is a witness: it votes and serves no images; ask another node, and take this one off the list"


def for_operators(app: App) -> App:
    """Only what operators ask; the rest is 503, which clients answer by trying the next node of their list.

    `/readyz` is of the rest: a load balancer is to send nobody here.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(SERVED):
            await native(Problem(503, "witness", DETAIL))(scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped
