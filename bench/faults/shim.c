/* Faults at exact points: the n-th file operation below one folder is not reached (SIGKILL), is torn in the middle,
   or fails with an errno. Preloaded (LD_PRELOAD); set by EDGEKD_FAULT="ops:at:errno:sticky:root" or by fault_arm().

   errno 0 kills before the operation, -1 writes half of it first. CLOCK_REALTIME is moved by
   EDGEKD_CLOCK="seconds:seconds:calls": the first offset, and the second one after so many readings. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static char root[PATH_MAX], ops[256];
static size_t root_length;
static long at, seen;
static int number, sticky;
static int fault_pid;
static long long first_offset, second_offset, clock_calls, clock_seen;
static int clock_set;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void fault_arm(const char *new_root, const char *new_ops, long new_at, int new_errno, int new_sticky) {
    snprintf(root, sizeof root, "%s", new_root);
    snprintf(ops, sizeof ops, ",%s,", new_ops);
    root_length = strlen(root);
    at = new_at, number = new_errno, sticky = new_sticky, seen = 0;
    fault_pid = getpid();
}

long fault_seen(void) { return seen; }

__attribute__((constructor)) static void from_environment(void) {
    const char *text = getenv("EDGEKD_FAULT"), *clock_text = getenv("EDGEKD_CLOCK");
    char names[256], where[PATH_MAX];
    long n;
    int error, again;
    if (text && sscanf(text, "%255[^:]:%ld:%d:%d:%4095s", names, &n, &error, &again, where) == 5)
        fault_arm(where, names, n, error, again);
    if (clock_text && sscanf(clock_text, "%lld:%lld:%lld", &first_offset, &second_offset, &clock_calls) == 3)
        clock_set = 1;
}

static int below(const char *path) {
    char whole[PATH_MAX];
    if (!root_length || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int below_fd(int fd, const char *path) {
    char link[64], whole[PATH_MAX];
    ssize_t n;
    int keep = errno;
    if (!root_length || (path && path[0] == '/')) return below(path);
    if (fd == AT_FDCWD) return below(path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, whole, sizeof whole - 1);
    errno = keep;
    if (n < 0) return 0;
    whole[n] = 0;
    return below(whole);
}

/* 0: go on; 1: fail, errno is set; 2: tear. */
static int fault(const char *op) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, ",%s,", op);
    if (!at || getpid() != fault_pid || (!strstr(ops, wanted) && !strstr(ops, ",all,"))) return 0;
    seen++;
    if (seen != at && !(sticky && seen > at)) return 0;
    if (number == 0) kill(getpid(), SIGKILL);
    if (number == -1) {
        if (!strcmp(op, "write")) return 2;
        kill(getpid(), SIGKILL);
    }
    errno = number;
    return 1;
}

static const char *kind_of_open(int flags) {
    return (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY ? "create" : "open";
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        mode_t mode = 0;                                                      \
        va_list rest;                                                         \
        REAL(name);                                                           \
        va_start(rest, flags);                                                \
        if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);       \
        va_end(rest);                                                         \
        if (below(path) && fault(kind_of_open(flags))) return -1;             \
        return real(path, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                          \
    int name(int at_fd, const char *path, int flags, ...) {                   \
        mode_t mode = 0;                                                      \
        va_list rest;                                                         \
        REAL(name);                                                           \
        va_start(rest, flags);                                                \
        if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);       \
        va_end(rest);                                                         \
        if (below_fd(at_fd, path) && fault(kind_of_open(flags))) return -1;   \
        return real(at_fd, path, flags, mode);                                \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    int what = size && below_fd(fd, NULL) ? fault("write") : 0;
    if (what == 1) return -1;
    if (what == 2) {
        real(fd, data, size / 2);
        kill(getpid(), SIGKILL);
    }
    return real(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size) {
    REAL(read);
    if (size && below_fd(fd, NULL) && fault("read")) return -1;
    return real(fd, data, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    REAL(sendfile);
    int what = below_fd(out, NULL) ? fault("write") : 0;
    if (what == 1) return -1;
    if (what == 2) {
        real(out, in, offset, 7);
        kill(getpid(), SIGKILL);
    }
    return real(out, in, offset, size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    REAL(sendfile64);
    int what = below_fd(out, NULL) ? fault("write") : 0;
    if (what == 1) return -1;
    if (what == 2) {
        real(out, in, offset, 7);
        kill(getpid(), SIGKILL);
    }
    return real(out, in, offset, size);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (below_fd(out, NULL) && fault("write")) return -1;
    return real(in, in_at, out, out_at, size, flags);
}

int fsync(int fd) {
    REAL(fsync);
    if (below_fd(fd, NULL) && fault("fsync")) return -1;
    return real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    if (below(to) && fault("rename")) return -1;
    return real(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    REAL(renameat);
    if (below_fd(to_fd, to) && fault("rename")) return -1;
    return real(from_fd, from, to_fd, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    REAL(renameat2);
    if (below_fd(to_fd, to) && fault("rename")) return -1;
    return real(from_fd, from, to_fd, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (below(path) && fault("mkdir")) return -1;
    return real(path, mode);
}

int mkdirat(int fd, const char *path, mode_t mode) {
    REAL(mkdirat);
    if (below_fd(fd, path) && fault("mkdir")) return -1;
    return real(fd, path, mode);
}

int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    if (below(path) && fault("chmod")) return -1;
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    if (below(path) && fault("unlink")) return -1;
    return real(path);
}

int unlinkat(int fd, const char *path, int flags) {
    REAL(unlinkat);
    if (below_fd(fd, path) && fault("unlink")) return -1;
    return real(fd, path, flags);
}

int rmdir(const char *path) {
    REAL(rmdir);
    if (below(path) && fault("unlink")) return -1;
    return real(path);
}

static long long offset(void) {
    if (!clock_set) return 0;
    return ++clock_seen > clock_calls ? second_offset : first_offset;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int done = real(which, now);
    if (!done && which == CLOCK_REALTIME) now->tv_sec += offset();
    return done;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int done = real(now, zone);
    if (!done) now->tv_sec += offset();
    return done;
}
