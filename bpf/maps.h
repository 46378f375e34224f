/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * Each map once. The number is MapSpec.index of bpf/layout.py; user space creates and pins the maps
 * and the loader puts their descriptors in place of the numbers.
 */
#ifndef MN_MAPS_H
#define MN_MAPS_H

#include "kernel.h"

/* bpf_pseudo_fd is the compiler's "load a map" instruction. */
#define MAP(name) ((void *)bpf_pseudo_fd(1, INDEX_OF_##name))

#define INDEX_OF_mn_config 1
#define INDEX_OF_mn_enrolled 3
#define INDEX_OF_mn_workload 4
#define INDEX_OF_mn_service 5
#define INDEX_OF_mn_backend 6
#define INDEX_OF_mn_verdict 7
#define INDEX_OF_mn_exclude 8
#define INDEX_OF_mn_exclude_net 9
#define INDEX_OF_mn_probe 10
#define INDEX_OF_mn_orig_dst 11
#define INDEX_OF_mn_grant 12
#define INDEX_OF_mn_listener 13
#define INDEX_OF_mn_sock 14
#define INDEX_OF_mn_flow 15
#define INDEX_OF_mn_stats 16
#define INDEX_OF_mn_reason 17
#define INDEX_OF_mn_events 18

#endif
