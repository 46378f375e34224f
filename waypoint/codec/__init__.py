"""HTTP/1.1 and HTTP/2 on a socket, towards clients and towards servers."""
