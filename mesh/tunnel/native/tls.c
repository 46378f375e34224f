/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * TLS on a tunnel's socket. OpenSSL reads and writes the socket itself, through a BIO that knows
 * what epoll said: no system call is spent on finding out that there is nothing.
 */

#include "internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static pthread_once_t method_once = PTHREAD_ONCE_INIT;
static BIO_METHOD *method;

static int bio_read(BIO *bio, char *buffer, int len)
{
    mt_tunnel *t = BIO_get_data(bio);
    ssize_t n;

    BIO_clear_retry_flags(bio);
    n = port_read(&t->port, buffer, (size_t)len);
    if (n > 0)
        return (int)n;
    if (n == 0)
        t->eof = true;
    if (n == IO_WOULD_BLOCK)
        BIO_set_retry_read(bio);
    return n == 0 ? 0 : -1;
}

/* What an earlier call left over. 1: nothing any more, 0: some, -1: the socket has failed. */
static int flush_sealed(mt_tunnel *t)
{
    size_t left = t->sealed.len - t->sealed_head;
    struct iovec iov = {.iov_len = left};
    ssize_t n;

    if (!left)
        return 1;
    iov.iov_base = t->sealed.p + t->sealed_head;
    n = port_write(&t->port, &iov, 1);
    if (n < 0)
        return -1;
    t->sealed_head += (size_t)n;
    if ((size_t)n < left)
        return 0;
    buf_free(&t->sealed);
    t->sealed_head = 0;
    return 1;
}

/* Send the gathered records. The same answers. */
static int send_gathered(mt_tunnel *t)
{
    mt_engine *e = t->engine;
    struct iovec iov = {.iov_base = e->sealed, .iov_len = e->sealed_len};
    size_t len = e->sealed_len;
    ssize_t n;
    char *p;

    e->sealed_len = 0;
    n = len ? port_write(&t->port, &iov, 1) : 0;
    if (n < 0)
        return -1;
    if ((size_t)n == len)
        return 1;
    p = buf_grow(&t->sealed, len - (size_t)n);
    if (!p)
        return -1;
    memcpy(p, e->sealed + n, len - (size_t)n);
    return 0;
}

static int gather(mt_tunnel *t, const char *data, int len)
{
    mt_engine *e = t->engine;
    int sent = 1;

    if (!t->port.writable)
        return 0; /* no more than what is gathered already need be kept */
    if (SEALED_SIZE - e->sealed_len < (size_t)len)
        sent = send_gathered(t);
    if (sent <= 0)
        return sent;
    memcpy(e->sealed + e->sealed_len, data, (size_t)len);
    e->sealed_len += (size_t)len;
    return len;
}

static int bio_write(BIO *bio, const char *data, int len)
{
    mt_tunnel *t = BIO_get_data(bio);
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = (size_t)len};
    ssize_t n = flush_sealed(t);

    BIO_clear_retry_flags(bio);
    /* Without MSG_MORE: the peer falls asleep while the kernel waits for more. */
    if (n > 0)
        n = t->gathering && (size_t)len <= SEALED_SIZE ? gather(t, data, len)
                                                       : port_write(&t->port, &iov, 1);
    if (n > 0)
        return (int)n;
    if (n == 0)
        BIO_set_retry_write(bio);
    return -1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    const mt_tunnel *t = BIO_get_data(bio);

    (void)number, (void)pointer;
    if (command == BIO_CTRL_FLUSH)
        return 1;
    return command == BIO_CTRL_EOF ? t->eof : 0;
}

static void make_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mesh tunnel");

    if (m && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) &&
        BIO_meth_set_ctrl(m, bio_control))
        method = m;
    else
        BIO_meth_free(m);
}

void tls_attach(mt_tunnel *t)
{
    BIO *bio;

    pthread_once(&method_once, make_method);
    bio = method ? BIO_new(method) : NULL;
    if (!bio) {
        t->tls_failed = true;
        return;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
}

/* Why OpenSSL gave up, for tunnel_lose(). */
static int explain(mt_tunnel *t, int ssl_error, int *reason, char *detail)
{
    unsigned long code = ERR_peek_error();
    const char *text = ERR_reason_error_string(code);

    t->tls_failed = true;
    *reason = MT_LOSS_TLS;
    if (ssl_error == SSL_ERROR_ZERO_RETURN || t->eof) {
        t->tls_failed = ssl_error != SSL_ERROR_ZERO_RETURN;
        *reason = MT_LOSS_PEER_CLOSED;
        snprintf(detail, DETAIL_SIZE,
                 t->tls_up ? "peer closed the connection" : "peer closed during the handshake");
    } else if (t->port.error) {
        *reason = MT_LOSS_RESET;
        strerror_r(t->port.error, detail, DETAIL_SIZE);
    } else if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
               ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        snprintf(detail, DETAIL_SIZE, "peer certificate: %s",
                 X509_verify_cert_error_string(SSL_get_verify_result(t->ssl)));
    } else {
        snprintf(detail, DETAIL_SIZE, "%s", text ? text : "TLS failed");
    }
    return TLS_FAILED;
}

int tls_handshake(mt_tunnel *t, int *reason, char *detail)
{
    const unsigned char *protocol;
    unsigned int len;
    int rv, error;

    ERR_clear_error();
    rv = SSL_do_handshake(t->ssl);
    if (rv != 1) {
        error = SSL_get_error(t->ssl, rv);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
            return TLS_AGAIN;
        return explain(t, error, reason, detail);
    }
    t->tls_up = true;
    SSL_get0_alpn_selected(t->ssl, &protocol, &len);
    if (len == 2 && !memcmp(protocol, "h2", 2))
        return TLS_DONE;
    *reason = MT_LOSS_TLS;
    snprintf(detail, DETAIL_SIZE, "no application protocol");
    return TLS_FAILED;
}

ssize_t tls_read(mt_tunnel *t, uint8_t *buffer, size_t size, int *reason, char *detail)
{
    size_t filled = 0, n = 0;

    t->read_more = false;
    while (size - filled >= RECORD_BYTES) {
        ERR_clear_error();
        if (SSL_read_ex(t->ssl, buffer + filled, size - filled, &n) != 1) {
            int error = SSL_get_error(t->ssl, 0);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
                return (ssize_t)filled;
            if (filled) { /* it will fail again, after these bytes */
                t->read_more = true;
                return (ssize_t)filled;
            }
            return explain(t, error, reason, detail);
        }
        filled += n;
    }
    t->read_more = true;
    return (ssize_t)filled;
}

int tls_flush(mt_tunnel *t)
{
    int rv = t->tls_failed ? -1 : flush_sealed(t);

    if (rv < 0)
        t->tls_failed = true;
    return rv < 0 ? TLS_FAILED : rv;
}

/* Plaintext that became records, or TLS_FAILED. */
static ssize_t seal(mt_tunnel *t, const uint8_t *data, size_t len)
{
    size_t sealed = 0, n = 0;

    while (sealed < len) {
        size_t record = len - sealed < RECORD_BYTES ? len - sealed : RECORD_BYTES;

        ERR_clear_error();
        if (SSL_write_ex(t->ssl, data + sealed, record, &n) != 1) {
            int error = SSL_get_error(t->ssl, 0);
            if (error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ)
                break;
            return TLS_FAILED;
        }
        sealed += n;
    }
    return (ssize_t)sealed;
}

ssize_t tls_write(mt_tunnel *t, const uint8_t *data, size_t len)
{
    ssize_t n;

    if (t->tls_failed)
        return TLS_FAILED;
    t->gathering = len > RECORD_BYTES;
    n = seal(t, data, len);
    if (t->gathering && send_gathered(t) < 0)
        n = TLS_FAILED;
    t->gathering = false;
    t->tls_failed = n < 0;
    return n;
}

void tls_shutdown(mt_tunnel *t)
{
    /* close_notify; the peer's is not awaited. */
    if (t->tls_up && !t->tls_failed)
        SSL_shutdown(t->ssl);
    ERR_clear_error();
}
