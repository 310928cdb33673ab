"""A client for the Iris message relay, written from docs/protocol.md alone; standard library only.

    with Client(["127.0.0.1:8443"], token, "ca.pem") as client:
        print(client.send("alice", b"hi").id)
        for event in client.follow():
            ...

See the README beside this package.
"""

from .client import Client, Receipt
from .errors import (Closed, DeadlineExceeded, IrisError, ProtocolError, Refused, ServerError, Unreachable)
from .follow import Follow
from .frames import Entry, Live, Welcome
from .keys import new_key

__all__ = ["Client", "Closed", "DeadlineExceeded", "Entry", "Follow", "IrisError", "Live", "ProtocolError", "Receipt",
           "Refused", "ServerError", "Unreachable", "Welcome", "new_key"]
