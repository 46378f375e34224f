/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Header fields between Python and nghttp2: names and values joined by NUL. */

#include "internal.h"

#include <string.h>

/* nghttp2 sends anything, so what HTTP/2 forbids is refused here. */
int headers_parse(const char *text, size_t len, size_t n, nghttp2_nv *nv)
{
    const char *end = text + len;

    for (size_t i = 0; i < 2 * n; i++) {
        const char *stop = i == 2 * n - 1 ? end : memchr(text, '\0', (size_t)(end - text));
        nghttp2_nv *field = &nv[i / 2];

        if (!stop)
            return -1;
        if (i % 2 == 0) {
            *field = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)text,
                                  .namelen = (size_t)(stop - text)};
            if (!nghttp2_check_header_name(field->name, field->namelen))
                return -1;
        } else {
            field->value = (uint8_t *)(uintptr_t)text;
            field->valuelen = (size_t)(stop - text);
            if (!nghttp2_check_header_value(field->value, field->valuelen))
                return -1;
        }
        text = stop + 1;
    }
    return n ? 0 : -1;
}
