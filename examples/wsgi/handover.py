"""Hands a client's connection over to handoffd. Python 3.9 on Linux, and nothing else."""

import fcntl
import json
import os
import socket
import ssl
import struct

SOCKET_PATH = os.environ.get("HANDOFFD_SOCKET", "/run/handoffd/handoffd.sock")
# How long connecting and sending may take each while the daemon is busy: a struct timeval of one second, for
# SO_SNDTIMEO of socket(7). settimeout() would not do: it makes the socket non-blocking, and then a full backlog fails at once.
SEND_TIMEOUT = struct.pack("ll", 1, 0)
# What is longer travels in memory of its own: a message has to fit into the socket's buffer (208 KiB by default).
MESSAGE_BYTES_MAX = 64 << 10
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


def hand_over(client, payload, request=None):
    """Gives `client`, a connected socket, and `payload`, a dictionary, to handoffd, which answers.

    `request` says what the server knows of the request: method, uri, proto, client (an address) and headers (pairs).
    Afterwards `client` is closed here. After an OSError nothing has happened: the client still waits for an answer.
    """
    if isinstance(client, ssl.SSLSocket):
        raise ValueError("an encrypted connection cannot be handed over: let a proxy in front end TLS")
    message = b"\x01" + json.dumps({**(request or {}), "v": 1}).encode() + b"\n"
    payload = json.dumps(payload).encode()
    fds = [client.fileno()]
    if len(payload) <= MESSAGE_BYTES_MAX:
        message += payload
    else:
        fds.append(os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        if len(fds) > 1:
            with open(fds[1], "wb", closefd=False) as memory:
                memory.write(payload)
            fcntl.fcntl(fds[1], fcntl.F_ADD_SEALS, SEALS)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
            daemon.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
            daemon.connect(SOCKET_PATH)
            socket.send_fds(daemon, [message], fds)
    finally:
        for memory in fds[1:]:
            os.close(memory)
    # The connection is the daemon's now, and both of us have it open: close() alone leaves it untouched, shutdown()
    # would end the daemon's answer. After detach() the server cannot do either, nor read or write.
    os.close(client.detach())
