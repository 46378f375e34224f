/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * What the kernel gives us: contexts, helpers, byte order.
 *
 * Compiled by bcc, whose own headers bring linux/bpf.h and the helpers. bcc's declarations that are
 * wrong for us are replaced here; map methods of bcc are not used at all, so that the sources stay
 * plain C and headers may look up maps (bcc rewrites the main file only).
 */
#ifndef MN_KERNEL_H
#define MN_KERNEL_H

#include <uapi/linux/bpf.h>
#include "layout.h"

#define MN_INLINE static __attribute__((always_inline)) inline
/* The section by which bcc tells a program from a function. */
#define MN_PROG(name) __attribute__((section(".bpf.fn." #name), used)) int name

/* Ends a branch that reads the context. Without it clang merges the last loads of two branches into
 * one through a computed pointer, and the verifier refuses "dereference of modified ctx ptr". */
#define MN_KEEP_APART() __asm__ volatile("" ::: "memory")

/* Reads a context field by itself: clang joins neighbours into one load of 8 bytes where the target
 * on the stack is aligned, and the verifier refuses "invalid bpf_context access size=8". */
#define MN_ONCE(field) (*(const volatile __typeof__(field) *)&(field))

#define MN_AF_INET 2
#define MN_AF_INET6 10
#define MN_SOCK_STREAM 1
#define MN_IPPROTO_TCP 6
#define MN_ECONNREFUSED 111

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define mn_htons(x) ((__be16)__builtin_bswap16((__u16)(x)))
#define mn_ntohs(x) __builtin_bswap16((__u16)(x))
#define mn_htonl(x) ((__be32)__builtin_bswap32((__u32)(x)))
#define mn_ntohl(x) __builtin_bswap32((__u32)(x))
#else
#define mn_htons(x) ((__be16)(x))
#define mn_ntohs(x) ((__u16)(x))
#define mn_htonl(x) ((__be32)(x))
#define mn_ntohl(x) ((__u32)(x))
#endif

/* bcc (0.26 up to today) declares this helper as returning 32 bits: cookies would be cut. */
static __u64 (*mn_socket_cookie)(void *ctx) = (void *)46;
/* bpf_set_retval is new in 5.18; before, a refused connect() shows EPERM. */
static int (*mn_set_retval)(int retval) = (void *)187;
/* bpf_skc_to_mptcp_sock is new in 5.19: the MPTCP socket of a subflow, NULL for plain TCP. */
static void *(*mn_to_mptcp)(void *sk) = (void *)196;

#endif
