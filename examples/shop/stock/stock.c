/* stock PORT: how many of each item are left. One thread, one request a connection; ends on SIGTERM.
 *
 * GET /stock/ITEM  {"item":"lamp","left":1000}
 *
 * Built by `cargo xtask demo`, or: cc -O2 -Wall -Wextra -o stock stock.c
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { HEAD_BYTES_MAX = 8192, ITEM_BYTES_MAX = 64, WAITING_MAX = 128, CLIENT_SECONDS_MAX = 2 };

static volatile sig_atomic_t stopping = 0;

static void stop(int signal_number) {
    (void)signal_number;
    stopping = 1;
}

/* Reads up to the empty line that ends the head; 0 when the client gives up or sends too much. */
static int read_head(int client, char *head) {
    size_t used = 0;
    while (used < HEAD_BYTES_MAX - 1) {
        ssize_t got = recv(client, head + used, HEAD_BYTES_MAX - 1 - used, 0);
        if (got <= 0) return 0;
        used += (size_t)got;
        head[used] = '\0';
        if (strstr(head, "\r\n\r\n")) return 1;
    }
    return 0;
}

static void answer(int client) {
    static char head[HEAD_BYTES_MAX];
    char item[ITEM_BYTES_MAX + 1] = "", body[160], out[400];
    int found, length;
    if (!read_head(client, head)) return;
    found = sscanf(head, "GET /stock/%64[a-z0-9-]", item) == 1;
    if (found)
        snprintf(body, sizeof body, "{\"item\":\"%s\",\"left\":1000}\n", item);
    else
        snprintf(body, sizeof body, "{\"error\":\"no such page\"}\n");
    length = snprintf(out, sizeof out,
                      "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nconnection: close\r\n\r\n%s",
                      found ? "200 OK" : "404 Not Found", strlen(body), body);
    send(client, out, (size_t)length, MSG_NOSIGNAL);
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, WAITING_MAX) != 0) {
        fprintf(stderr, "cannot listen on port %d: %s\n", port, strerror(errno));
        exit(1);
    }
    return listener;
}

int main(int argc, char **argv) {
    /* Without SA_RESTART, so that a signal ends the wait in accept. */
    struct sigaction action = {.sa_handler = stop};
    struct timeval patience = {.tv_sec = CLIENT_SECONDS_MAX};
    int listener;
    if (argc != 2 || atoi(argv[1]) <= 0) {
        fprintf(stderr, "usage: stock PORT\n");
        return 64;
    }
    sigaction(SIGTERM, &action, NULL);
    listener = listen_on(atoi(argv[1]));
    printf("stock on port %s\n", argv[1]);
    fflush(stdout);
    while (!stopping) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        answer(client);
        close(client);
    }
    printf("stock stopped\n");
    return 0;
}
