/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* TLS contexts from PEM in memory: TLS 1.3 only, mutual, ALPN h2, nothing resumed. */

#include "internal.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>

/*
 * Ciphertext read ahead, one system call for several records. A whole number of full ones and no
 * more: OpenSSL reads the rest of a record that is cut by a call of its own. 3 aligns its buffer.
 */
#define READ_AHEAD (4u * (RECORD_BYTES + RECORD_OVERHEAD) + 3u)

static int refuse(char *error, size_t size, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    snprintf(error, size, "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
    ERR_clear_error();
    return -1;
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *in, unsigned int in_len, void *user)
{
    (void)ssl, (void)user;
    for (unsigned int i = 0; i < in_len; i += 1u + in[i]) {
        if (in[i] == 2 && i + 2 < in_len && !memcmp(in + i + 1, "h2", 2)) {
            *out = in + i + 1;
            *out_len = 2;
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int use_chain(SSL_CTX *ctx, BIO *pem)
{
    X509 *leaf = PEM_read_bio_X509(pem, NULL, NULL, NULL), *next;
    int ok = leaf && SSL_CTX_use_certificate(ctx, leaf) == 1;

    X509_free(leaf);
    while (ok && (next = PEM_read_bio_X509(pem, NULL, NULL, NULL))) {
        ok = SSL_CTX_add0_chain_cert(ctx, next) == 1;
        if (!ok)
            X509_free(next);
    }
    if (ok)
        ERR_clear_error(); /* the end of the file */
    return ok ? 0 : -1;
}

static int use_key(SSL_CTX *ctx, BIO *pem)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL);
    int ok = key && SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_check_private_key(ctx) == 1;

    EVP_PKEY_free(key);
    return ok ? 0 : -1;
}

static int trust(SSL_CTX *ctx, BIO *pem)
{
    X509 *root;
    int count = 0;

    while ((root = PEM_read_bio_X509(pem, NULL, NULL, NULL))) {
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), root) == 1)
            count++;
        X509_free(root);
    }
    /* Anything but the end of the file is a broken bundle, not a shorter one. */
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        return -1;
    ERR_clear_error();
    return count ? 0 : -1;
}

static int configure(SSL_CTX *ctx, int server)
{
    static const unsigned char h2[] = {2, 'h', '2'};

    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    if (server)
        SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
    else if (SSL_CTX_set_alpn_protos(ctx, h2, sizeof h2))
        return -1;
    return SSL_CTX_set_num_tickets(ctx, 0) == 1 &&
                   SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
                   SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
                   SSL_CTX_set_ciphersuites(
                       ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") == 1
               ? 0
               : -1;
}

static int load(SSL_CTX *ctx, int (*use)(SSL_CTX *, BIO *), const char *pem, size_t len)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    int rv = bio ? use(ctx, bio) : -1;

    BIO_free(bio);
    return rv;
}

mt_context *mt_context_new(int server, const char *chain, size_t chain_len, const char *key,
                           size_t key_len, const char *roots, size_t roots_len, char *error,
                           size_t error_size)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    int rv = -1;

    ERR_clear_error();
    if (!ctx || configure(ctx, server))
        rv = refuse(error, error_size, "TLS cannot be set up");
    else if (load(ctx, use_chain, chain, chain_len))
        rv = refuse(error, error_size, "certificate chain");
    else if (load(ctx, use_key, key, key_len))
        rv = refuse(error, error_size, "key");
    else if (load(ctx, trust, roots, roots_len))
        rv = refuse(error, error_size, "roots");
    else
        rv = 0;
    if (rv) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return (mt_context *)(void *)ctx;
}

void mt_context_free(mt_context *context)
{
    SSL_CTX_free((SSL_CTX *)(void *)context);
}

SSL *tls_new(mt_context *context, int client)
{
    SSL *ssl = SSL_new((SSL_CTX *)(void *)context);

    if (ssl && client)
        SSL_set_connect_state(ssl);
    else if (ssl)
        SSL_set_accept_state(ssl);
    return ssl;
}
