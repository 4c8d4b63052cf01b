/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel offers to programs, as far as these use it. Only UAPI: no kernel types, no BTF, no relocations of
 * fields, so that one object runs on every kernel from 5.10 on. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define TO_NETWORK_16(value) __builtin_bswap16(value)
#define TO_NETWORK_32(value) __builtin_bswap32(value)

/* A map as the loader makes it; `max_entries` is a least size where the loader knows better. */
struct map {
    __u32 type, key_size, value_size, max_entries, flags;
};

static void *(*map_lookup)(const struct map *, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(const struct map *, const void *key, const void *value, __u64 flags) =
    (void *)BPF_FUNC_map_update_elem;
static __u64 (*monotonic_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u32 (*random_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static __u64 (*socket_cookie)(void *context) = (void *)BPF_FUNC_get_socket_cookie;
static __u64 (*netns_cookie)(void *context) = (void *)BPF_FUNC_get_netns_cookie;
static long (*redirect_peer)(__u32 link, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
