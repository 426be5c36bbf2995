"""Sends one HL7 message over MLLP in TLS, for each line that it is told, and prints what the acknowledgement says.

    mllp_send.py ADDRESS HOST CA
"""

import socket
import ssl
import sys

import hl7.client

address, host, ca = sys.argv[1:4]
ip, port = address.rsplit(":", 1)
context = ssl.create_default_context(cafile=ca)
client = hl7.client.MLLPClient.__new__(hl7.client.MLLPClient)
client.encoding = "utf-8"
client.socket = context.wrap_socket(socket.create_connection((ip, int(port))), server_hostname=host)
print("open", flush=True)
for line in sys.stdin:
    answer = client.send_message("MSH|^~\\&|ward||hospital||||ORU^R01|1|P|2.5\rNTE|1||%s\r" % line.strip())
    if not answer:
        print("closed", flush=True)
        break
    print(answer.strip(b"\x0b\x1c\r").split(b"\r")[-1].decode(), flush=True)
