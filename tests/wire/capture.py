#!/usr/bin/env python3
"""Stands in for a shim binary and records what passes between it and a manager.

Put a copy named containerd-shim-runc-v2 (or whatever the manager runs) first in the manager's PATH,
with WIRE_SHIM=<the real shim> and WIRE_LOG=<file> in the manager's environment. `start` then runs the
real shim, puts a proxy in front of its socket and another in front of the manager's event socket,
and appends to the log one line per message: `<service>/<method> <request|response> <hex>`, and
`start/stdin`, `start/stdout` with what went through those. Failed calls are recorded as requests only.
"""

import json
import os
import socket
import subprocess
import sys
import threading

REAL, LOG = os.environ["WIRE_SHIM"], os.environ["WIRE_LOG"]
lock = threading.Lock()


def record(what, kind, data):
    with lock, open(LOG, "a") as log:
        log.write(f"{what} {kind} {data.hex()}\n")


def fields(data):
    """Top-level length-delimited and varint fields of a serialized message."""
    at, found = 0, {}

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        found.setdefault(key >> 3, value)
    return found


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def pump(source, sink, calls, from_client):
    """A frame: length, stream and flags in 10 bytes, then a ttrpc Request or Response."""
    try:
        while True:
            header = read_exactly(source, 10)
            body = read_exactly(source, int.from_bytes(header[:4], "big"))
            stream, message = header[4:8], fields(body)
            if from_client:
                calls[stream] = f"{message[1].decode()}/{message[2].decode()}"
                record(calls[stream], "request", message.get(3, b""))
            elif not fields(message.get(1, b"")).get(1):
                record(calls[stream], "response", message.get(2, b""))
            sink.sendall(header + body)
    except (EOFError, OSError):
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def proxy(listener, target, ended=lambda: None):
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(target)
        calls = {}
        threading.Thread(target=pump, args=(client, server, calls, True), daemon=True).start()
        answers = lambda: (pump(server, client, calls, False), ended())
        threading.Thread(target=answers, daemon=True).start()


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    return listener


def start():
    stdin = sys.stdin.buffer.read()
    record("start/stdin", "request", stdin)
    events, own_events = os.environ["TTRPC_ADDRESS"], f"{os.path.dirname(LOG)}/e{os.getpid()}"
    to_manager = listen(own_events)
    env = dict(os.environ, TTRPC_ADDRESS=own_events)
    run = subprocess.run([REAL, *sys.argv[1:]], input=stdin, stdout=subprocess.PIPE, env=env)
    if run.returncode:
        sys.exit(run.returncode)
    record("start/stdout", "response", run.stdout)
    answer = run.stdout.decode()
    address = json.loads(answer)["address"] if answer.startswith("{") else answer.strip()
    own_address = f"{os.path.dirname(LOG)}/s{os.getpid()}"
    to_shim = listen(own_address)
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        args = (to_manager, events.removeprefix("unix://"))
        threading.Thread(target=proxy, args=args, daemon=True).start()
        # The shim's last events may be on their way when its connection ends.
        leave = lambda: threading.Timer(3, os._exit, [0]).start()
        proxy(to_shim, address.removeprefix("unix://"), leave)
    sys.stdout.write(answer.replace(address, f"unix://{own_address}"))


if sys.argv[-1] == "start":
    start()
else:
    os.execv(REAL, [REAL, *sys.argv[1:]])
