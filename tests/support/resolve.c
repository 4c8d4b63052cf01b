/* Asks the resolver of the C library it is built with. One line for each answer:
 *
 *   resolve NAME...           NAME any|4|6: ADDRESS... or the error, addresses sorted; for an address, its name
 *   resolve -t SECONDS NAME   asks again and again; each failure on a line, in the end: asked N failed N slowest MS
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct { const char *label; int family; } KINDS[] = {{"any", AF_UNSPEC}, {"4", AF_INET}, {"6", AF_INET6}};

static int compare(const void *a, const void *b) { return strcmp(a, b); }

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int addresses(const char *name, int family, char texts[][64], int *count) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found, *one;
    int code = getaddrinfo(name, "80", &hints, &found);
    *count = 0;
    if (code) return code;
    for (one = found; one && *count < 64; one = one->ai_next)
        getnameinfo(one->ai_addr, one->ai_addrlen, texts[(*count)++], 64, NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(found);
    qsort(texts, *count, 64, compare);
    return 0;
}

static void forward(const char *name) {
    char texts[64][64];
    int count;
    for (int kind = 0; kind < 3; kind++) {
        int code = addresses(name, KINDS[kind].family, texts, &count);
        printf("%s %s:", name, KINDS[kind].label);
        if (code) printf(" %s", code == EAI_AGAIN ? "again" : "none");
        for (int i = 0; i < count; i++) printf(" %s", texts[i]);
        printf("\n");
    }
}

static void backward(const char *text, const struct sockaddr *address, socklen_t length) {
    char name[256];
    int code = getnameinfo(address, length, name, sizeof name, NULL, 0, NI_NAMEREQD);
    printf("%s name: %s\n", text, code == EAI_AGAIN ? "again" : code ? "none" : name);
}

static void ask(const char *text) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) backward(text, (void *)&v4, sizeof v4);
    else if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) backward(text, (void *)&v6, sizeof v6);
    else forward(text);
}

static void repeat(long seconds, const char *name) {
    char texts[64][64];
    int count, asked = 0, failed = 0;
    long begun = now(), slowest = 0;
    printf("begun\n");
    fflush(stdout);
    while (now() - begun < seconds * 1000) {
        long start = now();
        int code = addresses(name, AF_UNSPEC, texts, &count);
        long took = now() - start;
        asked++;
        if (took > slowest) slowest = took;
        if (code) failed++, printf("%s at %ld ms: %s\n", name, start - begun, gai_strerror(code));
        usleep(2000);
    }
    printf("asked %d failed %d slowest %ld\n", asked, failed, slowest);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "-t")) repeat(atol(argv[2]), argv[3]);
    else for (int i = 1; i < argc; i++) ask(argv[i]);
    return 0;
}
