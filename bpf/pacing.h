/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* Most that a connection sends per second: TCP spreads its segments by itself, without a qdisc. */
#ifndef MN_PACING_H
#define MN_PACING_H

#include "kernel.h"

#define MN_SOL_SOCKET 1
#define MN_SO_MAX_PACING_RATE 47

/* Fail-open: a limit that the kernel does not take is no reason to refuse a connection. */
MN_INLINE void mn_pace(void *ctx, __u32 bytes_per_s)
{
	if (bytes_per_s)
		bpf_setsockopt(ctx, MN_SOL_SOCKET, MN_SO_MAX_PACING_RATE, &bytes_per_s,
			       sizeof(bytes_per_s));
}

#endif
