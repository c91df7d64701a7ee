"""The local lane: envelopes over a Unix socket, where router and replica share a machine. Knows no Ray and no HTTP.

chooser.py      which way an envelope takes: the least busy lane, or the Ray handle
client.py       one lane's near end, in the router
connection.py   frames over a socket, both ends
frames.py       what is said, and how it is written
server.py       the far end, in the replica
"""
