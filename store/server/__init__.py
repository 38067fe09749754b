"""The real world's side of the facade: sockets, a data directory, the machine's clocks. Node code runs on it unchanged.

    clients --HTTP/1.1--> HttpConnection --Request--> Node --Runtime--> RealDisk      one directory, one fsync thread
            clients.py                                        |         disk.py
                                                              +-------> RealNetwork   one outgoing connection per peer
                                                                        peers.py, greeting.py

`process.py` puts the parts together and serves until it is told to stop.
"""
