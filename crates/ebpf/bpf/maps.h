/* SPDX-License-Identifier: Apache-2.0 */
/* The maps. Their contents are written down in src/layout.rs a second time; a change of meaning needs a new name, for
 * a new agent adopts what has the name and the sizes it knows.
 *
 * Addresses are 16 bytes in both families, IPv4 ones mapped (RFC 4291 2.5.5.2): what a dual-stack socket says and what
 * an IPv4 socket says is the same key. Ports and addresses are in network order, the rest in that of the machine. */
#pragma once

#include "kernel.h"

struct address {
    __u32 words[4];
};

/* An endpoint, or any other end of a connection. */
struct end {
    struct address address;
    __be16 port;
    __u16 zero;
};

/* A node port has the unspecified address of its family. */
struct frontend_key {
    struct address address;
    __be16 port;
    __u8 protocol;
    __u8 zero;
};

enum action {
    /* nftables knows better: refused, dropped, or for some sources only. */
    LEAVE,
    FORWARD,
};

struct frontend {
    __u32 sticky_secs; /* 0: not sticky */
    __u16 endpoints;
    __u8 action;
    __u8 zero;
};

/* Endpoints are stored in blocks: a Service with hundreds of them needs few elements. What a last block has left is
 * filled with endpoints too, so that a count that is just being changed leads to one in any case. */
#define BLOCK 8

struct block_key {
    struct frontend_key at;
    __u16 number;
    __u16 zero;
};

struct block {
    struct end endpoints[BLOCK];
};

struct member_key {
    struct frontend_key at;
    struct end endpoint;
};

/* Who is remembered by `memory`. */
enum who {
    CLIENT = 1, /* a network namespace, by its cookie: session affinity */
    SOCKET = 2, /* a socket, by its cookie: datagrams of one socket keep to one endpoint */
};

struct memory_key {
    __u64 cookie;
    struct frontend_key at;
    __u32 who;
};

struct memory {
    __u64 seen_ns;
    struct end endpoint;
    __u32 index;
};

struct original_key {
    __u64 cookie;
    struct end endpoint;
    __u32 zero;
};

struct pod {
    __u32 link;
    __u32 isolated;
    __u64 translated_ns; /* when it last sent a datagram to a frontend through the stack, or was answered; or 0 */
};

/* A connection between two pods; `low` is the end with the lower address. */
struct flow_key {
    struct address low, high;
    __be16 low_port, high_port;
    __u8 protocol;
    __u8 zero[3];
};

struct flow {
    __u64 since_ns; /* UDP: last packet. TCP: when it was closed, or 0 */
    __u8 opened_by_low;
    __u8 low_is_done, high_is_done; /* TCP: has sent a FIN */
    __u8 zero[5];
};

enum counter { CONNECTIONS, DATAGRAMS, REDIRECTED, COUNTERS };

#define MAP(name, kind, key, value, entries, how)                                                                     \
    SECTION("maps") struct map name = { BPF_MAP_TYPE_##kind, sizeof(key), sizeof(value), entries, how }

/* What the program says; sized by the loader. */
MAP(dyad_frontends, HASH, struct frontend_key, struct frontend, 4096, BPF_F_NO_PREALLOC);
MAP(dyad_endpoints, HASH, struct block_key, struct block, 4096, BPF_F_NO_PREALLOC);
MAP(dyad_members, HASH, struct member_key, __u8, 1024, BPF_F_NO_PREALLOC);
MAP(dyad_nodes, HASH, struct address, __u8, 256, BPF_F_NO_PREALLOC);
MAP(dyad_pods, HASH, struct address, struct pod, 4096, BPF_F_NO_PREALLOC);
/* What happens here; what was not used for long makes room. These take their memory at once: 17 MB in all, per node.
 * Beside it, 30,000 dual-stack Services take some 40 MB. */
MAP(dyad_memory, LRU_HASH, struct memory_key, struct memory, 16384, 0);
MAP(dyad_originals, LRU_HASH, struct original_key, struct end, 65536, 0);
MAP(dyad_flows, LRU_HASH, struct flow_key, struct flow, 65536, 0);
MAP(dyad_counters, PERCPU_ARRAY, __u32, __u64, COUNTERS, 0);

INLINE void count(__u32 counter)
{
    __u64 *value = map_lookup(&dyad_counters, &counter);
    if (value)
        ++*value;
}

INLINE bool is_ipv4(const struct address *ip)
{
    return ip->words[0] == 0 && ip->words[1] == 0 && ip->words[2] == TO_NETWORK_32(0xffff);
}

INLINE struct address from_ipv4(__be32 ip)
{
    return (struct address){ { 0, 0, TO_NETWORK_32(0xffff), ip } };
}

INLINE bool same_address(const struct address *a, const struct address *b)
{
    return a->words[3] == b->words[3] && a->words[2] == b->words[2] && a->words[1] == b->words[1] &&
           a->words[0] == b->words[0];
}

INLINE bool same_end(const struct end *a, const struct end *b)
{
    return a->port == b->port && same_address(&a->address, &b->address);
}

/* What is at `to`; completes the key. */
INLINE struct frontend *find_frontend(const struct end *to, struct frontend_key *at)
{
    at->address = to->address;
    at->port = to->port;
    struct frontend *found = map_lookup(&dyad_frontends, at);
    if (found || !map_lookup(&dyad_nodes, &to->address))
        return found;
    if (is_ipv4(&to->address))
        at->address = from_ipv4(0);
    else
        at->address = (struct address){};
    return map_lookup(&dyad_frontends, at);
}
