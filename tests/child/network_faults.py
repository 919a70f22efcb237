"""Operations of children that look for a network; found through the search path."""

import os
import socket


def look(state, args, arrays):
    reached = False
    if args["port"]:
        try:
            with socket.create_connection(("127.0.0.1", args["port"]), timeout=5):
                reached = True
        except OSError:
            pass
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=5):
            own = True
    interfaces = sorted(name for _, name in socket.if_nameindex())
    return {"interfaces": interfaces, "reached": reached, "own_loopback": own, "uid": os.getuid()}, []


def spin(state, args, arrays):
    while True:
        pass


def refuse(state, args, arrays):
    from pathlib import Path

    from edgekd.inspect import refuse

    raise refuse("nesting", Path("a.onnx"), "too deep")
