"""The HTTP faces: a plain ASGI application and the small trio server that runs it."""
