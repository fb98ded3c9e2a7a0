/* Lies between the plane and its disk: loaded before libc, it sees each write and sync of tasks.db and its WAL. It can let
   syncs fail, end the process at a chosen one of them, and record them, so that what a power cut leaves can be worked out. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Written by the test into the file HOLDFAST_LAYER while the process runs. */
struct control {
    int64_t sync_fails;
    /* The operation of the class that ends the process, counted down; 0 is none. */
    int64_t countdown;
    int64_t class; /* file * 4 + (is a sync) * 2 + (is done); a negative one is any */
    int64_t records;
    /* When the first sync was let fail, in nanoseconds of CLOCK_BOOTTIME. */
    int64_t failed_at;
};

enum { NONE = -1, WAL = 0, MAIN = 1 };
enum { WRITE = 0, SYNC = 1, CUT = 2 };

static struct control *control;
static int record_fd = -1;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("HOLDFAST_LAYER");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) return;
    control = at;
    char name[4096];
    snprintf(name, sizeof name, "%s.record", path);
    record_fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ends_with(const char *text, size_t length, const char *end) {
    size_t n = strlen(end);
    return length >= n && memcmp(text + length - n, end, n) == 0;
}

static int file_of(int fd) {
    if (!control) return NONE;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    if (n < 0) return NONE;
    if (ends_with(path, n, "/tasks.db-wal")) return WAL;
    if (ends_with(path, n, "/tasks.db")) return MAIN;
    return NONE;
}

static void point(int file, int op, int done) {
    if (__atomic_load_n(&control->countdown, __ATOMIC_SEQ_CST) == 0) return;
    int64_t class = control->class;
    if (class >= 0 && class != file * 4 + (op == SYNC) * 2 + done) return;
    if (__atomic_sub_fetch(&control->countdown, 1, __ATOMIC_SEQ_CST) == 0) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

static void put(const void *data, size_t length) {
    while (length > 0) {
        ssize_t n = syscall(SYS_write, record_fd, data, length);
        if (n <= 0) abort();
        data = (const char *)data + n;
        length -= n;
    }
}

static void record(int file, int op, int64_t offset, const void *data, uint32_t length) {
    if (!control->records) return;
    unsigned char head[14] = {op, file};
    memcpy(head + 2, &offset, 8);
    memcpy(head + 10, &length, 4);
    pthread_mutex_lock(&one);
    put(head, sizeof head);
    if (op == WRITE) put(data, length);
    pthread_mutex_unlock(&one);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    int file = file_of(fd);
    if (file == NONE) return syscall(SYS_pwrite64, fd, data, length, offset);
    point(file, WRITE, 0);
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, offset);
    if (done > 0) record(file, WRITE, offset, data, done);
    point(file, WRITE, 1);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    int file = file_of(fd);
    if (file == NONE) return syscall(SYS_write, fd, data, length);
    return pwrite64(fd, data, length, lseek64(fd, length, SEEK_CUR) - (off64_t)length);
}

static int synced(int fd, long number) {
    int file = file_of(fd);
    if (file == NONE) return syscall(number, fd);
    point(file, SYNC, 0);
    if (control->sync_fails) {
        struct timespec now;
        clock_gettime(CLOCK_BOOTTIME, &now);
        if (!control->failed_at) control->failed_at = now.tv_sec * 1000000000LL + now.tv_nsec;
        errno = EIO;
        return -1;
    }
    int done = syscall(number, fd);
    if (done == 0) record(file, SYNC, 0, NULL, 0);
    point(file, SYNC, 1);
    return done;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }

int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int ftruncate64(int fd, off64_t length) {
    int file = file_of(fd);
    int done = syscall(SYS_ftruncate, fd, length);
    if (file != NONE && done == 0) record(file, CUT, length, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
