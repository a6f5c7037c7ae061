#!/usr/bin/env python3
"""Gives fake-gcs-server the parts of Google's XML interface that it lacks.

These are plain puts, and status 404 for lists of missing buckets; everything else is passed on as
it is. A put becomes an upload through the JSON interface, with its precondition, so that it is still
fake-gcs-server that decides which of several puts wins.

usage: gcs-front.py PORT BACKEND_PORT
"""

import http.client
import http.server
import json
import sys
import threading
import urllib.parse
import uuid

PORT, BACKEND = int(sys.argv[1]), int(sys.argv[2])
LOCAL = threading.local()


def ask(method, path, body, headers):
    """One request to the backend; connections are kept, one a thread."""
    for _ in range(2):
        connection = getattr(LOCAL, "connection", None)
        if connection is None:
            connection = LOCAL.connection = http.client.HTTPConnection("127.0.0.1", BACKEND, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except (http.client.HTTPException, ConnectionError):
            LOCAL.connection = None
    return 502, [], b"the backend does not answer"


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def pass_on(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        headers["Host"] = f"127.0.0.1:{PORT}"
        plain_put = self.command == "PUT" and not self.path.startswith("/upload/")
        if plain_put:
            status, headers, body = self.put(body or b"", headers)
        else:
            status, headers, body = ask(self.command, self.path, body, headers)
            if status == 500 and b"no bucket named" in body:
                status = 404
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def put(self, body, headers):
        _, bucket, name = self.path.split("?")[0].split("/", 2)
        query = {"uploadType": "multipart"}
        for header, value in headers.items():
            if header.lower() == "x-goog-if-generation-match":
                query["ifGenerationMatch"] = value
        path = f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
        about = json.dumps({"name": urllib.parse.unquote(name)}).encode()
        border = uuid.uuid4().hex.encode()
        parts = [
            b"--" + border + b"\r\nContent-Type: application/json\r\n\r\n" + about + b"\r\n",
            b"--" + border + b"\r\nContent-Type: application/octet-stream\r\n\r\n" + body + b"\r\n",
            b"--" + border + b"--\r\n",
        ]
        kept = {"Content-Type": f"multipart/related; boundary={border.decode()}", "Host": headers["Host"]}
        status, _, answer = ask("POST", path, b"".join(parts), kept)
        if status != 200:
            return status, [], answer
        told = json.loads(answer)
        generation = str(told.get("generation", "1"))
        return 200, [("ETag", f'"{told.get("etag", generation)}"'), ("x-goog-generation", generation)], b""

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", PORT), Front).serve_forever()
