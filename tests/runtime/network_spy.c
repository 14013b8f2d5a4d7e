// Preloaded into a process: writes down each attempt to reach the network, and lets none succeed.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *what, const char *which) {
    const char *path = getenv("NETWORK_LOG");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    char line[512];
    if (file < 0) abort();
    snprintf(line, sizeof line, "%s %s\n", what, which ? which : "");
    if (write(file, line, strlen(line)) < 0) abort();
    close(file);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    note("getaddrinfo", node);
    return EAI_FAIL;
}

int socket(int domain, int type, int protocol) {
    if (domain == AF_INET || domain == AF_INET6) {
        note("socket", domain == AF_INET ? "IPv4" : "IPv6");
        errno = ENETUNREACH;
        return -1;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}
