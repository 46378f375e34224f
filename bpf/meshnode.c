/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
#define BPF_LICENSE Dual BSD/GPL
/* The compilation unit: bcc compiles all hooks at once. No hook includes another. */
#include "connect.c"
#include "getpeername.c"
#include "sk_lookup.c"
#include "sockops.c"
#include "ztunnel.c"
