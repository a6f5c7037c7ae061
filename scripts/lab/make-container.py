#!/usr/bin/env python3
"""Makes a container in Azurite: one request, signed with the account's shared key.

usage: ACCOUNT=... KEY=... PORT=... make-container.py NAME
"""

import base64
import email.utils
import hashlib
import hmac
import http.client
import os
import sys

account, key, port = (os.environ[name] for name in ("ACCOUNT", "KEY", "PORT"))
container = sys.argv[1]
path = f"/{account}/{container}"
headers = {
    "x-ms-date": email.utils.formatdate(usegmt=True),
    "x-ms-version": "2021-08-06",
}
signed_headers = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
text = "PUT" + "\n" * 12 + signed_headers + f"/{account}{path}\nrestype:container"
digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"

connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
connection.request("PUT", f"{path}?restype=container", headers=headers)
answer = connection.getresponse()
if answer.status != 201:
    sys.exit(f"no container: {answer.status} {answer.read().decode()}")
