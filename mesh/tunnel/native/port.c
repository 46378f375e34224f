/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Sockets in the epoll set. */

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int port_open(mt_engine *e, mt_port *p, int kind, void *owner, int fd)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET,
        .data.ptr = p,
    };
    int on = 1;

    /* Other families, and a socket that the peer reset already, refuse the option. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    *p = (mt_port){.owner = owner, .fd = fd, .kind = (uint8_t)kind};
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
        fd_close(fd, true);
        p->fd = -1;
        return -1;
    }
    /* Tried at once; whoever is disappointed waits for the first edge. */
    p->readable = p->writable = true;
    return 0;
}

ssize_t port_read(mt_port *p, void *buffer, size_t len)
{
    ssize_t n;

    if (!p->readable)
        return IO_WOULD_BLOCK;
    do
        n = recv(p->fd, buffer, len, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        if (n && (size_t)n < len && !p->hangup && !p->urgent)
            p->readable = false; /* epoll(7): the next byte makes a new edge */
        return n;
    }
    p->readable = p->urgent = false;
    if (errno == EAGAIN)
        return IO_WOULD_BLOCK;
    p->error = errno;
    return IO_FAILED;
}

ssize_t port_write(mt_port *p, struct iovec *iov, int count)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    size_t len = 0;
    ssize_t n;

    if (!p->writable)
        return 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    do
        n = sendmsg(p->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        if ((size_t)n < len)
            p->writable = false;
        return n;
    }
    p->writable = false;
    if (errno == EAGAIN)
        return 0;
    p->error = errno;
    return IO_FAILED;
}

int port_finish(mt_port *p)
{
    if (shutdown(p->fd, SHUT_WR)) {
        p->error = errno;
        return -1;
    }
    return 0;
}

void fd_close(int fd, bool reset)
{
    struct linger linger = {.l_onoff = 1};

    /* A dead socket refuses the option and needs none. */
    if (reset)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

void port_close(mt_engine *e, mt_port *p, bool reset)
{
    if (p->fd < 0)
        return;
    /* Explicitly: a copy of the descriptor in another process would keep it in the set. */
    epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, p->fd, NULL);
    fd_close(p->fd, reset);
    p->fd = -1;
    p->readable = p->writable = false;
}
