/* A service as small as one can be, static and without threads.
 *
 *     tiny [PORT]      answers every request with 200; without a port it only lives
 *
 * TINY_BIRTHS=FILE     appends "PID BOOT_NS" as the first thing that main does
 * TINY_START_MS=N      waits so long before it listens: its own time to start
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 1000

static struct pollfd fds[CONNECTIONS + 1];

static void tell_birth(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    const char *path = getenv("TINY_BIRTHS");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd < 0)
        return;
    char line[64];
    int length = snprintf(line, sizeof line, "%d %lld\n", getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(fd, line, length) != length)
        exit(3);
    close(fd);
}

/* Requests are small and come in one piece. */
static int serve(int fd) {
    static char request[8192];
    ssize_t length = read(fd, request, sizeof request - 1);
    if (length <= 0)
        return 0;
    request[length] = 0;
    static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
    for (char *at = request; (at = strstr(at, "\r\n\r\n")); at += 4)
        if (write(fd, answer, sizeof answer - 1) < 0)
            return 0;
    return !strcasestr(request, "connection: close");
}

int main(int argc, char **argv) {
    tell_birth();
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2)
        for (;;)
            pause();
    const char *wait_ms = getenv("TINY_START_MS");
    if (wait_ms)
        usleep(atoi(wait_ms) * 1000);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("tiny");
        return 1;
    }
    fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (int i = 1; i <= CONNECTIONS; i++)
        fds[i].fd = -1;
    int used = 1;
    for (;;) {
        poll(fds, used, -1);
        for (int i = 1; i < used; i++)
            if (fds[i].fd >= 0 && fds[i].revents && !serve(fds[i].fd)) {
                close(fds[i].fd);
                fds[i].fd = -1;
            }
        if (fds[0].revents) {
            int fd = accept4(listener, 0, 0, SOCK_CLOEXEC), i = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            while (i < CONNECTIONS && fds[i].fd >= 0)
                i++;
            if (fds[i].fd >= 0)
                close(fd);
            else
                fds[i] = (struct pollfd){.fd = fd, .events = POLLIN};
            if (i >= used)
                used = i + 1;
        }
    }
}
