/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Lists and buffers. */

#ifndef MT_BYTES_H
#define MT_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* ---- lists: intrusive, circular, with a head ---------------------------------------------- */

typedef struct mt_link {
    struct mt_link *next, *prev;
} mt_link;

static inline void list_init(mt_link *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const mt_link *l)
{
    return l->next == l;
}

static inline void list_append(mt_link *head, mt_link *l)
{
    l->prev = head->prev;
    l->next = head;
    l->prev->next = l;
    head->prev = l;
}

/* Also right for a link that is in no list, as long as it was initialised. */
static inline void list_remove(mt_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

#define CONTAINER(link, type, member) \
    ((type *)(void *)((char *)(link) - offsetof(type, member)))

/* ---- bytes -------------------------------------------------------------------------------- */

typedef struct mt_piece mt_piece;

/* First in, first out; holds no memory while empty. */
typedef struct {
    mt_piece *first, *last;
    size_t size;
} mt_queue;

int queue_push(mt_queue *q, const uint8_t *data, size_t len);
int queue_pieces(const mt_queue *q, struct iovec *iov, int max);
void queue_pop(mt_queue *q, size_t count);
void queue_clear(mt_queue *q);

typedef struct {
    char *p;
    size_t len, cap;
} mt_buf;

/* `len` more bytes at the end, or NULL. */
char *buf_grow(mt_buf *b, size_t len);
void buf_free(mt_buf *b);

#endif
