/* Counts a process's writes, renames and syncs in one folder, by whatever library, and has one of them fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long made, failing;
static int code;

/* From now on the `number`-th call in `where` fails with errno `error`; none does where it is 0. */
void arm(const char *where, long number, int error) {
    strncpy(folder, where, sizeof folder - 1);
    code = error;
    failing = number;
    made = 0;
}

long calls(void) { return made; }

static int path_fails(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)))
        return 0;
    if (atomic_fetch_add(&made, 1) + 1 != failing)
        return 0;
    errno = code;
    return 1;
}

static int fails(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return path_fails(path);
}

#define OF_DESCRIPTOR(type, name, parameters, ...)                                                                     \
    type name parameters {                                                                                             \
        static type(*real) parameters;                                                                                 \
        if (!real)                                                                                                     \
            real = dlsym(RTLD_NEXT, #name);                                                                            \
        return fails(descriptor) ? -1 : real(__VA_ARGS__);                                                             \
    }

OF_DESCRIPTOR(ssize_t, write, (int descriptor, const void *data, size_t size), descriptor, data, size)
OF_DESCRIPTOR(ssize_t, writev, (int descriptor, const struct iovec *data, int count), descriptor, data, count)
OF_DESCRIPTOR(ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at), descriptor, data, size, at)
OF_DESCRIPTOR(ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t at), descriptor, data, size, at)
OF_DESCRIPTOR(int, fsync, (int descriptor), descriptor)
OF_DESCRIPTOR(int, fdatasync, (int descriptor), descriptor)

int rename(const char *old, const char *new) {
    static int (*real)(const char *, const char *);
    if (!real)
        real = dlsym(RTLD_NEXT, "rename");
    return path_fails(new) ? -1 : real(old, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    static int (*real)(int, const char *, int, const char *, unsigned);
    if (!real)
        real = dlsym(RTLD_NEXT, "renameat2");
    return path_fails(new) ? -1 : real(from, old, to, new, flags);
}
