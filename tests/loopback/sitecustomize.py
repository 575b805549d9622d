"""First on the path of the tests' Python processes: they reach loopback and nothing else.

A process that asks for another host ends at once, so that no test passes because it was offline.
"""

import os
import socket
import sys

_HERE = {None, "", "0.0.0.0", "127.0.0.1", "::", "::1", "localhost", socket.gethostname()}


def _look(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host not in _HERE:
        os.write(2, f"a test asks for the remote host {host}\n".encode())
        os._exit(99)


sys.addaudithook(_look)
