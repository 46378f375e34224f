/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What the files about a tunnel's HTTP/2 session share. */

#ifndef MT_HTTP2_H
#define MT_HTTP2_H

#include "internal.h"
#include "guards.h"

#define DEFAULT_WINDOW 65535u
#define MAX_STREAMS 0x7fffffffu

/* Payload of the PING that ends the first part of a drain, eight bytes. */
extern const uint8_t http2_drain_ping[8];

static inline mt_stream *http2_find(const mt_tunnel *t, int32_t id)
{
    return id > 0 ? nghttp2_session_get_stream_user_data(t->h2, id) : NULL;
}

/* ---- http2_received.c: callbacks ----------------------------------------------------------- */

int http2_on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *head, void *user);
int http2_on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user);
int http2_on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                    size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                    void *user);
int http2_on_invalid_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                            size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                            void *user);
int http2_on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data,
                        size_t len, void *user);
int http2_on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user);
int http2_on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *user);

/* ---- http2_sent.c: callbacks --------------------------------------------------------------- */

mt_ssize http2_on_read_length(nghttp2_session *h2, uint8_t frame_type, int32_t id,
                              int32_t session_window, int32_t stream_window, uint32_t max_frame,
                              void *user);
int http2_on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t len,
                       nghttp2_data_source *source, void *user);
int http2_on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user);
int http2_on_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int code, void *user);

#endif
