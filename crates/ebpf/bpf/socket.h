/* SPDX-License-Identifier: Apache-2.0 */
/* Load balancing where sockets are used: a connection to a frontend becomes one to an endpoint before there is a packet,
 * and the application goes on seeing the frontend.
 *
 * Programs never refuse: what is not forwarded goes on as it is, and nftables decides. */
#pragma once

#include "maps.h"

#define NANOSECONDS 1000000000ull

/* The end a context is about. The hooks of IPv6 see IPv4-mapped addresses of dual-stack sockets, too. */
INLINE struct end end_of(struct bpf_sock_addr *context, bool ipv6)
{
    struct end end = { .port = (__be16)context->user_port };
    if (ipv6) {
        end.address.words[0] = context->user_ip6[0];
        end.address.words[1] = context->user_ip6[1];
        end.address.words[2] = context->user_ip6[2];
        end.address.words[3] = context->user_ip6[3];
    } else {
        end.address = from_ipv4(context->user_ip4);
    }
    return end;
}

INLINE void set_end(struct bpf_sock_addr *context, bool ipv6, const struct end *end)
{
    if (ipv6) {
        context->user_ip6[0] = end->address.words[0];
        context->user_ip6[1] = end->address.words[1];
        context->user_ip6[2] = end->address.words[2];
        context->user_ip6[3] = end->address.words[3];
    } else {
        context->user_ip4 = end->address.words[3];
    }
    context->user_port = end->port;
}

INLINE struct end *endpoint_at(const struct frontend_key *at, __u32 index)
{
    struct block_key key = { .at = *at, .number = index / BLOCK };
    struct block *block = map_lookup(&dyad_endpoints, &key);
    return block ? &block->endpoints[index % BLOCK] : 0;
}

/* Whether the endpoint a socket talks to is still one of the frontend: where it was, or, in a short list that may have
 * moved up, anywhere. */
INLINE bool is_still_there(const struct frontend_key *at, const struct frontend *frontend, const struct memory *memory)
{
    if (memory->index < frontend->endpoints) {
        struct end *there = endpoint_at(at, memory->index);
        if (there && same_end(there, &memory->endpoint))
            return true;
    }
    for (__u32 number = 0; number < 2; number++) {
        struct block_key key = { .at = *at, .number = number };
        struct block *block = map_lookup(&dyad_endpoints, &key);
        for (__u32 index = 0; block && index < BLOCK; index++)
            if (number * BLOCK + index < frontend->endpoints && same_end(&block->endpoints[index], &memory->endpoint))
                return true;
    }
    return false;
}

INLINE bool is_valid(const struct frontend_key *at, const struct frontend *frontend, const struct memory *memory,
                     __u64 now)
{
    if (!frontend->sticky_secs)
        return is_still_there(at, frontend, memory);
    if (now - memory->seen_ns >= frontend->sticky_secs * NANOSECONDS)
        return false;
    struct member_key member = { .at = *at, .endpoint = memory->endpoint };
    return map_lookup(&dyad_members, &member);
}

/* Chooses an endpoint: the one from before if the client or the socket has to keep to it, else any. */
INLINE bool choose(struct bpf_sock_addr *context, const struct frontend_key *at, const struct frontend *frontend,
                   bool connects, struct end *endpoint)
{
    struct memory_key key = { .at = *at };
    if (frontend->sticky_secs) {
        key.who = CLIENT;
        key.cookie = netns_cookie(context);
    } else if (!connects) {
        key.who = SOCKET;
        key.cookie = socket_cookie(context);
    }
    __u64 now = key.who ? monotonic_ns() : 0;
    struct memory *memory = key.who ? map_lookup(&dyad_memory, &key) : 0;
    if (memory && is_valid(at, frontend, memory, now)) {
        memory->seen_ns = now;
        *endpoint = memory->endpoint;
        return true;
    }
    __u32 index = random_u32() % frontend->endpoints;
    struct end *chosen = endpoint_at(at, index);
    if (!chosen)
        return false;
    *endpoint = *chosen;
    if (key.who) {
        struct memory next = { .seen_ns = now, .endpoint = *chosen, .index = index };
        map_update(&dyad_memory, &key, &next, BPF_ANY);
    }
    return true;
}

/* connect() and sendmsg(): from the frontend to an endpoint. */
INLINE int translate(struct bpf_sock_addr *context, bool ipv6, bool connects)
{
    struct frontend_key at = { .protocol = context->protocol };
    if (context->protocol != IPPROTO_TCP && context->protocol != IPPROTO_UDP)
        return 1;
    struct end to = end_of(context, ipv6);
    struct frontend *frontend = find_frontend(&to, &at);
    if (!frontend || frontend->action != FORWARD || !frontend->endpoints)
        return 1;
    struct original_key original = {};
    if (!choose(context, &at, frontend, connects, &original.endpoint))
        return 1;
    original.cookie = socket_cookie(context);
    /* Without it answers could not be told from those of somebody else. */
    if (map_update(&dyad_originals, &original, &to, BPF_ANY))
        return 1;
    set_end(context, ipv6, &original.endpoint);
    count(connects ? CONNECTIONS : DATAGRAMS);
    return 1;
}

/* recvmsg() and getpeername(): from the endpoint back to the frontend. */
INLINE int translate_back(struct bpf_sock_addr *context, bool ipv6)
{
    struct original_key key = { .cookie = socket_cookie(context), .endpoint = end_of(context, ipv6) };
    struct end *frontend = map_lookup(&dyad_originals, &key);
    if (frontend)
        set_end(context, ipv6, frontend);
    return 1;
}

#define FOR_FAMILY(family, ipv6)                                                                                      \
    SECTION("cgroup/connect" #family) int dyad_connect##family(struct bpf_sock_addr *context)                         \
    {                                                                                                                 \
        return translate(context, ipv6, true);                                                                        \
    }                                                                                                                 \
    SECTION("cgroup/sendmsg" #family) int dyad_sendmsg##family(struct bpf_sock_addr *context)                         \
    {                                                                                                                 \
        return translate(context, ipv6, false);                                                                       \
    }                                                                                                                 \
    SECTION("cgroup/recvmsg" #family) int dyad_recvmsg##family(struct bpf_sock_addr *context)                         \
    {                                                                                                                 \
        return translate_back(context, ipv6);                                                                         \
    }                                                                                                                 \
    SECTION("cgroup/getpeername" #family) int dyad_getpeer##family(struct bpf_sock_addr *context)                     \
    {                                                                                                                 \
        return translate_back(context, ipv6);                                                                         \
    }

FOR_FAMILY(4, false)
FOR_FAMILY(6, true)
