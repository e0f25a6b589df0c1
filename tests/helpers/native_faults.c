/* Counts a process's changes of files in one folder, by whatever library, and has one of them fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], what[PATH_MAX + 32];
static atomic_long made, failing;
static int code, stays;

/* From now on the `number`-th call in `where` fails with errno `error`, and where it is `lasting` all that come after,
   but for those that remove: a full disk takes these. None does where the number is 0. */
void arm(const char *where, long number, int error, int lasting) {
    strncpy(folder, where, sizeof folder - 1);
    what[0] = 0;
    code = error;
    stays = lasting;
    failing = number;
    made = 0;
}

long calls(void) { return made; }

/* The name of the call that failed first and the path that it was about; "" before. */
const char *failed(void) { return what; }

static int path_fails(const char *name, const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)))
        return 0;
    long number = atomic_fetch_add(&made, 1) + 1, first = failing;
    if (!first || number < first || (number > first && (!stays || !strncmp(name, "unlink", 6) || !strcmp(name, "rmdir"))))
        return 0;
    if (number == first)
        snprintf(what, sizeof what, "%s %s", name, path);
    errno = code;
    return 1;
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return size >= 0;
}

static int fails(const char *name, int descriptor) {
    char path[PATH_MAX];
    return folder[0] && path_of(descriptor, path) && path_fails(name, path);
}

/* Of a path relative to an open folder. */
static int entry_fails(const char *name, int at, const char *path) {
    char parent[PATH_MAX], whole[2 * PATH_MAX];
    if (!folder[0] || path[0] == '/' || at == AT_FDCWD)
        return path_fails(name, path);
    if (!path_of(at, parent))
        return 0;
    snprintf(whole, sizeof whole, "%s/%s", parent, path);
    return path_fails(name, whole);
}

#define WRAPPED(type, name, parameters, is_failing, failure, ...)                                                      \
    type name parameters {                                                                                             \
        static type(*real) parameters;                                                                                 \
        if (!real)                                                                                                     \
            real = dlsym(RTLD_NEXT, #name);                                                                            \
        return is_failing ? failure : real(__VA_ARGS__);                                                               \
    }
#define OF_FILE(type, name, parameters, ...) WRAPPED(type, name, parameters, fails(#name, file), -1, __VA_ARGS__)
#define OF_PATH(name, parameters, ...) WRAPPED(int, name, parameters, path_fails(#name, path), -1, __VA_ARGS__)
#define OF_ENTRY(name, parameters, ...) WRAPPED(int, name, parameters, entry_fails(#name, at, path), -1, __VA_ARGS__)

OF_FILE(ssize_t, write, (int file, const void *data, size_t size), file, data, size)
OF_FILE(ssize_t, writev, (int file, const struct iovec *data, int count), file, data, count)
OF_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t from), file, data, size, from)
OF_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t from), file, data, size, from)
OF_FILE(ssize_t, pwritev, (int file, const struct iovec *data, int count, off_t from), file, data, count, from)
OF_FILE(ssize_t, pwritev64, (int file, const struct iovec *data, int count, off64_t from), file, data, count, from)
OF_FILE(int, fsync, (int file), file)
OF_FILE(int, fdatasync, (int file), file)
OF_FILE(int, ftruncate, (int file, off_t size), file, size)
OF_FILE(int, ftruncate64, (int file, off64_t size), file, size)
WRAPPED(int, posix_fallocate, (int file, off_t from, off_t size), fails("posix_fallocate", file), code, file, from, size)
WRAPPED(int, posix_fallocate64, (int file, off64_t from, off64_t size), fails("posix_fallocate64", file), code, file,
        from, size)

OF_PATH(rename, (const char *old, const char *path), old, path)
OF_PATH(unlink, (const char *path), path)
OF_PATH(rmdir, (const char *path), path)
OF_PATH(mkdir, (const char *path, mode_t mode), path, mode)

OF_ENTRY(renameat, (int from, const char *old, int at, const char *path), from, old, at, path)
OF_ENTRY(renameat2, (int from, const char *old, int at, const char *path, unsigned flags), from, old, at, path, flags)
OF_ENTRY(unlinkat, (int at, const char *path, int flags), at, path, flags)
OF_ENTRY(mkdirat, (int at, const char *path, mode_t mode), at, path, mode)

/* Opening counts where it may make a file. */
#define OPENS(name, parameters, at, ...)                                                                               \
    int name parameters {                                                                                              \
        static int(*real) parameters;                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (!real)                                                                                                     \
            real = dlsym(RTLD_NEXT, #name);                                                                            \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        return flags & O_CREAT && entry_fails(#name, at, path) ? -1 : real(__VA_ARGS__, mode);                         \
    }

OPENS(open, (const char *path, int flags, ...), AT_FDCWD, path, flags)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, path, flags)
OPENS(openat, (int at, const char *path, int flags, ...), at, at, path, flags)
OPENS(openat64, (int at, const char *path, int flags, ...), at, at, path, flags)
