/* SPDX-License-Identifier: Apache-2.0 */
/* From pod to pod without the node's network stack: at the node's end of a pod's link, what is for another pod of the
 * node goes straight into that pod.
 *
 * The stack must not miss what it needs to know, and must not be asked about what it has not seen:
 *
 * - A TCP connection is redirected if its SYN was, and only then: what nftables has translated, or what was there before
 *   this program, stays with the stack, whose conntrack knows the way back.
 * - UDP has no SYN: any datagram begins a flow. But what a pod sends and gets is all left to the stack as long as the
 *   pod also sends datagrams to frontends through it: some of it may be answers that have to be translated back, and
 *   which these are only conntrack knows, which may even have changed ports.
 * - Pods that policy isolates have their connections judged by nftables. If they become isolated later, what the
 *   opener sends goes to the stack from then on, and what it is answered does not: the stack would take an answer for
 *   the first packet of a connection the other way round, and judge it by the wrong policies.
 * - Everything else (ICMP, neighbour discovery, fragments, extension headers, IPv4 options) is for the stack.
 *
 * The Ethernet header stays as it is: the packet came to the node as its own, and is taken for that in the pod. The time
 * to live stays too, as it would on one link. */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "maps.h"

#define SECOND 1000000000ull
/* How long a UDP flow lasts without packets: as long as conntrack keeps one with answers (nf_conntrack_udp_timeout_stream) */
#define UDP_IDLE (120 * SECOND)
/* How long the last packets of a closed TCP connection are still redirected. Short, for its ports may be used again by a
 * connection that goes through the stack. */
#define TCP_LINGER (2 * SECOND)

struct packet {
    struct end source, destination;
    __u8 protocol;
    bool opens, finishes, resets;
};

INLINE bool parse_ports(struct packet *packet, void *transport, void *data_end)
{
    if (packet->protocol == IPPROTO_UDP) {
        struct udphdr *udp = transport;
        if ((void *)(udp + 1) > data_end)
            return false;
        packet->source.port = udp->source;
        packet->destination.port = udp->dest;
        return true;
    }
    struct tcphdr *tcp = transport;
    if (packet->protocol != IPPROTO_TCP || (void *)(tcp + 1) > data_end)
        return false;
    packet->source.port = tcp->source;
    packet->destination.port = tcp->dest;
    packet->opens = tcp->syn && !tcp->ack;
    packet->finishes = tcp->fin;
    packet->resets = tcp->rst;
    return true;
}

/* Whether it is plain TCP or UDP. */
INLINE bool parse(struct __sk_buff *skb, struct packet *packet)
{
    void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
    void *network = data + sizeof(struct ethhdr);
    if (skb->protocol == TO_NETWORK_16(ETH_P_IP)) {
        struct iphdr *ip = network;
        if ((void *)(ip + 1) > data_end || ip->ihl != 5 || ip->frag_off & TO_NETWORK_16(0x3fff))
            return false;
        packet->source.address = from_ipv4(ip->saddr);
        packet->destination.address = from_ipv4(ip->daddr);
        packet->protocol = ip->protocol;
        return parse_ports(packet, ip + 1, data_end);
    }
    if (skb->protocol == TO_NETWORK_16(ETH_P_IPV6)) {
        struct ipv6hdr *ip = network;
        if ((void *)(ip + 1) > data_end)
            return false;
        __builtin_memcpy(&packet->source.address, &ip->saddr, sizeof(struct address));
        __builtin_memcpy(&packet->destination.address, &ip->daddr, sizeof(struct address));
        packet->protocol = ip->nexthdr;
        return parse_ports(packet, ip + 1, data_end);
    }
    return false;
}

INLINE bool is_lower(const struct address *a, const struct address *b)
{
    if (a->words[3] != b->words[3])
        return a->words[3] < b->words[3];
    if (a->words[2] != b->words[2])
        return a->words[2] < b->words[2];
    if (a->words[1] != b->words[1])
        return a->words[1] < b->words[1];
    return a->words[0] < b->words[0];
}

/* The key of the packet's connection; whether the sender is its low end. */
INLINE bool flow_of(const struct packet *packet, struct flow_key *key)
{
    bool is_low = is_lower(&packet->source.address, &packet->destination.address);
    key->low = is_low ? packet->source.address : packet->destination.address;
    key->high = is_low ? packet->destination.address : packet->source.address;
    key->low_port = is_low ? packet->source.port : packet->destination.port;
    key->high_port = is_low ? packet->destination.port : packet->source.port;
    key->protocol = packet->protocol;
    return is_low;
}

INLINE bool open_flow(const struct flow_key *key, bool by_low, __u64 now)
{
    struct flow flow = { .since_ns = now, .opened_by_low = by_low };
    return map_update(&dyad_flows, key, &flow, BPF_ANY) == 0;
}

INLINE bool redirects_tcp(const struct packet *packet, bool is_isolated)
{
    struct flow_key key = {};
    bool is_low = flow_of(packet, &key);
    if (packet->opens)
        return !is_isolated && open_flow(&key, is_low, 0);
    struct flow *flow = map_lookup(&dyad_flows, &key);
    if (!flow || (is_isolated && flow->opened_by_low == is_low))
        return false;
    if (flow->since_ns)
        return monotonic_ns() - flow->since_ns < TCP_LINGER;
    if (packet->finishes) {
        if (is_low)
            flow->low_is_done = 1;
        else
            flow->high_is_done = 1;
    }
    if (packet->resets || (packet->finishes && flow->low_is_done && flow->high_is_done))
        flow->since_ns = monotonic_ns();
    return true;
}

/* Whether nftables may have translated datagrams of a pod lately. */
INLINE bool is_translated(const struct pod *pod, __u64 now)
{
    return pod->translated_ns && now - pod->translated_ns < UDP_IDLE;
}

INLINE bool redirects_udp(const struct packet *packet, const struct pod *source, struct pod *destination,
                          bool is_isolated)
{
    __u64 now = monotonic_ns();
    if (is_translated(destination, now)) {
        destination->translated_ns = now;
        return false;
    }
    if (is_translated(source, now))
        return false;
    struct flow_key key = {};
    bool is_low = flow_of(packet, &key);
    struct flow *flow = map_lookup(&dyad_flows, &key);
    if (!flow || now - flow->since_ns >= UDP_IDLE)
        return !is_isolated && open_flow(&key, is_low, now);
    if (is_isolated)
        return flow->opened_by_low != is_low;
    /* A store for every packet would be one too many. */
    if (now - flow->since_ns > SECOND)
        flow->since_ns = now;
    return true;
}

/* Remembers that a pod has sent a datagram to a frontend, for nftables translates it. */
INLINE void note_translated(const struct packet *packet, struct pod *source)
{
    struct frontend_key at = { .protocol = packet->protocol };
    if (find_frontend(&packet->destination, &at))
        source->translated_ns = monotonic_ns();
}

SECTION("classifier") int dyad_pod_link(struct __sk_buff *skb)
{
    struct packet packet = {};
    if (!parse(skb, &packet))
        return TC_ACT_UNSPEC;
    /* Only what a pod says under its own address. */
    struct pod *source = map_lookup(&dyad_pods, &packet.source.address);
    if (!source || source->link != skb->ifindex)
        return TC_ACT_UNSPEC;
    bool is_udp = packet.protocol == IPPROTO_UDP;
    struct pod *destination = map_lookup(&dyad_pods, &packet.destination.address);
    if (!destination) {
        if (is_udp)
            note_translated(&packet, source);
        return TC_ACT_UNSPEC;
    }
    bool is_isolated = source->isolated || destination->isolated;
    if (destination->link == source->link)
        return TC_ACT_UNSPEC;
    if (!(is_udp ? redirects_udp(&packet, source, destination, is_isolated) : redirects_tcp(&packet, is_isolated)))
        return TC_ACT_UNSPEC;
    count(REDIRECTED);
    return redirect_peer(destination->link, 0);
}
