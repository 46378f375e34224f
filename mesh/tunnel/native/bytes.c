/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Buffers: a queue of bytes that wait for a socket, and a growing array. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Small payloads share a piece, so that a byte per frame does not cost a piece per byte. */
#define PIECE_MIN 4096u

struct mt_piece {
    mt_piece *next;
    size_t head, len, cap;
    uint8_t data[];
};

int queue_push(mt_queue *q, const uint8_t *data, size_t len)
{
    mt_piece *p = q->last;
    size_t room = p ? p->cap - p->len : 0, n = len < room ? len : room, cap;

    if (n)
        memcpy(p->data + p->len, data, n);
    if (n < len) {
        cap = len - n > PIECE_MIN ? len - n : PIECE_MIN;
        mt_piece *more = malloc(sizeof *more + cap);
        if (!more)
            return -1;
        *more = (mt_piece){.len = len - n, .cap = cap};
        memcpy(more->data, data + n, len - n);
        if (p)
            p->next = more;
        else
            q->first = more;
        q->last = more;
    }
    if (n)
        p->len += n;
    q->size += len;
    return 0;
}

int queue_pieces(const mt_queue *q, struct iovec *iov, int max)
{
    int n = 0;

    for (mt_piece *p = q->first; p && n < max; p = p->next, n++)
        iov[n] = (struct iovec){.iov_base = p->data + p->head, .iov_len = p->len - p->head};
    return n;
}

void queue_pop(mt_queue *q, size_t count)
{
    q->size -= count;
    while (q->first && count >= q->first->len - q->first->head) {
        mt_piece *p = q->first;
        count -= p->len - p->head;
        q->first = p->next;
        free(p);
    }
    if (q->first)
        q->first->head += count;
    else
        q->last = NULL;
}

void queue_clear(mt_queue *q)
{
    queue_pop(q, q->size);
}

char *buf_grow(mt_buf *b, size_t len)
{
    size_t need = b->len + len, cap = b->cap ? b->cap : 512;
    char *p;

    if (need > b->cap) {
        while (cap < need)
            cap *= 2;
        p = realloc(b->p, cap);
        if (!p)
            return NULL;
        b->p = p;
        b->cap = cap;
    }
    p = b->p + b->len;
    b->len = need;
    return p;
}

void buf_free(mt_buf *b)
{
    free(b->p);
    *b = (mt_buf){0};
}
