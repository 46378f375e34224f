/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* Addresses of both families in one form. */
#ifndef MN_ADDR_H
#define MN_ADDR_H

#include "kernel.h"

MN_INLINE void mn_addr_v4(struct mn_addr *addr, __be32 ip4)
{
	addr->word[0] = 0;
	addr->word[1] = 0;
	addr->word[2] = mn_htonl(0xffff);
	addr->word[3] = ip4;
}

MN_INLINE int mn_addr_is_v4(const struct mn_addr *addr)
{
	return !addr->word[0] && !addr->word[1] && addr->word[2] == mn_htonl(0xffff);
}

MN_INLINE int mn_addr_equal(const struct mn_addr *a, const struct mn_addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/* 127.0.0.0/8 and ::1; also the unspecified address, which connect() takes for loopback. */
MN_INLINE int mn_addr_is_loopback(const struct mn_addr *addr)
{
	if (mn_addr_is_v4(addr))
		return (addr->word[3] & mn_htonl(0xff000000)) == mn_htonl(0x7f000000) ||
		       !addr->word[3];
	return !addr->word[0] && !addr->word[1] && !addr->word[2] &&
	       (addr->word[3] == mn_htonl(1) || !addr->word[3]);
}

/* Loopback of the same family. */
MN_INLINE void mn_addr_to_loopback(struct mn_addr *addr)
{
	if (mn_addr_is_v4(addr)) {
		addr->word[3] = mn_htonl(0x7f000001);
		return;
	}
	addr->word[0] = 0;
	addr->word[1] = 0;
	addr->word[2] = 0;
	addr->word[3] = mn_htonl(1);
}

#endif
