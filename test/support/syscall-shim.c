// Loaded into the product by LD_PRELOAD (see syscall-shim.ts): stops, kills, fails, delays or tears the file system calls
// that a rule names. $SYSCALL_SHIM is a folder; `rules` in it is read again whenever it is another file, and each time
// a rule acts, a line "ID PID CALL PATH" is added to `met` before it does. A rule is a line of its own,
//
//     ID CALL NTH ACTION ARGUMENT PHASE PATH
//
// and acts on the NTH call (0: on each one) of its kind whose path holds PATH. Counting begins anew with each new file of
// rules. What the kinds, actions and phases mean is said in syscall-shim.ts.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_RULES 64
// Where SQLite's write lock lies in the file of the shared memory (sqlite.org/walformat.html, "WAL Locks").
#define WAL_WRITE_LOCK 120

struct rule {
  char id[64], call[16], action[16], phase[16], path[256];
  long nth, argument, seen;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[MAX_RULES];
static int rule_count;
static struct stat rules_read;
static char rules_path[512], met_path[512];

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("SYSCALL_SHIM");
  if (folder == NULL) return;
  snprintf(rules_path, sizeof rules_path, "%s/rules", folder);
  snprintf(met_path, sizeof met_path, "%s/met", folder);
}

// Everything here goes to the kernel by syscall(2): the shim must not meet itself.
static void read_rules(void) {
  struct stat now;
  if (rules_path[0] == 0 || stat(rules_path, &now) != 0) {
    rule_count = 0;
    return;
  }
  if (now.st_ino == rules_read.st_ino && now.st_mtim.tv_nsec == rules_read.st_mtim.tv_nsec &&
      now.st_mtim.tv_sec == rules_read.st_mtim.tv_sec)
    return;
  static char text[MAX_RULES * 512];
  int file = syscall(SYS_openat, AT_FDCWD, rules_path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  long length = syscall(SYS_read, file, text, sizeof text - 1);
  syscall(SYS_close, file);
  if (length < 0) return;
  text[length] = 0;
  rules_read = now;
  rule_count = 0;
  char *rest = NULL;
  for (char *line = strtok_r(text, "\n", &rest); line && rule_count < MAX_RULES; line = strtok_r(NULL, "\n", &rest)) {
    struct rule *rule = &rules[rule_count];
    memset(rule, 0, sizeof *rule);
    if (sscanf(line, "%63s %15s %ld %15s %ld %15s %255[^\n]", rule->id, rule->call, &rule->nth, rule->action,
               &rule->argument, rule->phase, rule->path) == 7)
      rule_count++;
  }
}

static void tell(const struct rule *rule, const char *path) {
  char line[1200];
  int length = snprintf(line, sizeof line, "%s %d %s %s\n", rule->id, getpid(), rule->call, path);
  if (length >= (int)sizeof line) length = sizeof line - 1;
  int file = syscall(SYS_openat, AT_FDCWD, met_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;
  syscall(SYS_write, file, line, length);
  syscall(SYS_close, file);
}

// The rule that acts on this call, copied; 0 if none does.
static int find(const char *call, const char *phase, const char *path, struct rule *found) {
  int is_found = 0;
  pthread_mutex_lock(&mutex);
  for (int at = 0; at < rule_count; at++) {
    struct rule *rule = &rules[at];
    if (strcmp(rule->call, call) || strcmp(rule->phase, phase) || !strstr(path, rule->path)) continue;
    rule->seen++;
    if (!is_found && (rule->nth == 0 || rule->nth == rule->seen)) {
      *found = *rule;
      is_found = 1;
    }
  }
  pthread_mutex_unlock(&mutex);
  return is_found;
}

static int concerns(const char *call) {
  if (rules_path[0] == 0) return 0;
  int is_concerned = 0;
  pthread_mutex_lock(&mutex);
  read_rules();
  for (int at = 0; at < rule_count; at++) is_concerned |= !strcmp(rules[at].call, call);
  pthread_mutex_unlock(&mutex);
  return is_concerned;
}

struct outcome {
  int fails;
  long tear;
};

static struct outcome act(const char *call, const char *phase, const char *path) {
  struct outcome outcome = {0, -1};
  struct rule rule;
  int before = errno;
  if (!find(call, phase, path, &rule)) return outcome;
  tell(&rule, path);
  if (!strcmp(rule.action, "stop")) {
    // To this very thread, which then runs no further; the others stop with it.
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
  } else if (!strcmp(rule.action, "kill")) {
    syscall(SYS_kill, getpid(), SIGKILL);
  } else if (!strcmp(rule.action, "delay")) {
    struct timespec pause = {rule.argument / 1000, (rule.argument % 1000) * 1000000};
    nanosleep(&pause, NULL);
  } else if (!strcmp(rule.action, "fail")) {
    outcome.fails = (int)rule.argument;
  } else if (!strcmp(rule.action, "tear")) {
    outcome.tear = rule.argument;
  }
  errno = before;
  return outcome;
}

static void path_of(int file, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
  path[length < 0 ? 0 : length] = 0;
}

#define REAL(name) static __typeof__(name) *real; if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

// Runs `call_it` between the two phases; a rule of the first may fail it instead.
#define AROUND(kind, path, call_it, type)                \
  do {                                                   \
    if (!concerns(kind)) return call_it;                 \
    struct outcome first = act(kind, "before", path);    \
    if (first.fails) return errno = first.fails, -1;     \
    type result = call_it;                               \
    int left = errno;                                    \
    struct outcome then = act(kind, "after", path);      \
    if (then.fails) return errno = then.fails, -1;       \
    errno = left;                                        \
    return result;                                       \
  } while (0)

#define ON_FILE(kind, file, call_it, type)                       \
  do {                                                           \
    char path[600];                                              \
    path[0] = 0;                                                 \
    if (rules_path[0] != 0) path_of(file, path, sizeof path);    \
    AROUND(kind, path, call_it, type);                           \
  } while (0)

// A write of which a rule may let only the first bytes through: a short write, as a full disk makes it.
static ssize_t torn_write(int file, const struct iovec *parts, int count, off64_t offset, long limit) {
  ssize_t written = 0;
  for (int at = 0; at < count && written < limit; at++) {
    size_t wanted = parts[at].iov_len;
    if ((long)wanted > limit - written) wanted = limit - written;
    long done = offset < 0 ? syscall(SYS_write, file, parts[at].iov_base, wanted)
                           : syscall(SYS_pwrite64, file, parts[at].iov_base, wanted, offset + written);
    if (done < 0) return written > 0 ? written : -1;
    written += done;
    if ((size_t)done < wanted) break;
  }
  return written;
}

#define WRITING(file, parts, count, offset, call_it)                                          \
  do {                                                                                        \
    if (!concerns("write")) return call_it;                                                   \
    char path[600];                                                                           \
    path_of(file, path, sizeof path);                                                         \
    struct outcome first = act("write", "before", path);                                      \
    if (first.fails) return errno = first.fails, -1;                                          \
    ssize_t result = first.tear < 0 ? call_it : torn_write(file, parts, count, offset, first.tear); \
    int left = errno;                                                                         \
    struct outcome then = act("write", "after", path);                                        \
    if (then.fails) return errno = then.fails, -1;                                            \
    errno = left;                                                                             \
    return result;                                                                            \
  } while (0)

ssize_t write(int file, const void *bytes, size_t size) {
  REAL(write);
  struct iovec part = {(void *)bytes, size};
  WRITING(file, &part, 1, (off64_t)-1, real(file, bytes, size));
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) {
  REAL(pwrite);
  struct iovec part = {(void *)bytes, size};
  WRITING(file, &part, 1, offset, real(file, bytes, size, offset));
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) {
  REAL(pwrite64);
  struct iovec part = {(void *)bytes, size};
  WRITING(file, &part, 1, offset, real(file, bytes, size, offset));
}
ssize_t writev(int file, const struct iovec *parts, int count) {
  REAL(writev);
  WRITING(file, parts, count, (off64_t)-1, real(file, parts, count));
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) {
  REAL(pwritev);
  WRITING(file, parts, count, offset, real(file, parts, count, offset));
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) {
  REAL(pwritev64);
  WRITING(file, parts, count, offset, real(file, parts, count, offset));
}

ssize_t read(int file, void *bytes, size_t size) {
  REAL(read);
  ON_FILE("read", file, real(file, bytes, size), ssize_t);
}
ssize_t pread(int file, void *bytes, size_t size, off_t offset) {
  REAL(pread);
  ON_FILE("read", file, real(file, bytes, size, offset), ssize_t);
}
ssize_t pread64(int file, void *bytes, size_t size, off64_t offset) {
  REAL(pread64);
  ON_FILE("read", file, real(file, bytes, size, offset), ssize_t);
}

int fsync(int file) {
  REAL(fsync);
  ON_FILE("sync", file, real(file), int);
}
int fdatasync(int file) {
  REAL(fdatasync);
  ON_FILE("sync", file, real(file), int);
}
int ftruncate(int file, off_t size) {
  REAL(ftruncate);
  ON_FILE("truncate", file, real(file, size), int);
}
int ftruncate64(int file, off64_t size) {
  REAL(ftruncate64);
  ON_FILE("truncate", file, real(file, size), int);
}

#define ON_BOTH(kind, from, to, call_it)                      \
  do {                                                        \
    char path[1024];                                          \
    snprintf(path, sizeof path, "%s -> %s", from, to);        \
    AROUND(kind, path, call_it, int);                         \
  } while (0)

int rename(const char *from, const char *to) {
  REAL(rename);
  ON_BOTH("rename", from, to, real(from, to));
}
int link(const char *from, const char *to) {
  REAL(link);
  ON_BOTH("link", from, to, real(from, to));
}
int unlink(const char *path) {
  REAL(unlink);
  AROUND("unlink", path, real(path), int);
}

static mode_t mode_of(int flags, va_list rest) {
  return (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
}
int open(const char *path, int flags, ...) {
  REAL(open);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  AROUND("open", path, real(path, flags, mode), int);
}
int open64(const char *path, int flags, ...) {
  REAL(open64);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  AROUND("open", path, real(path, flags, mode), int);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
  REAL(copy_file_range);
  ON_FILE("copy", to, real(from, from_at, to, to_at, size, flags), ssize_t);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
  ssize_t sendfile(int, int, off_t *, size_t);
  REAL(sendfile);
  ON_FILE("copy", to, real(to, from, at, size), ssize_t);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
  ssize_t sendfile64(int, int, off64_t *, size_t);
  REAL(sendfile64);
  ON_FILE("copy", to, real(to, from, at, size), ssize_t);
}

static int is_write_lock(int command, void *argument) {
  struct flock *lock = argument;
  return lock->l_type == F_WRLCK && lock->l_start == WAL_WRITE_LOCK;
}
static int is_lock(int command) {
  return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
}
static int lock_file(int (*real)(int, int, ...), int file, int command, void *argument) {
  if (is_write_lock(command, argument)) ON_FILE("lock", file, real(file, command, argument), int);
  return real(file, command, argument);
}
int fcntl(int file, int command, ...) {
  REAL(fcntl);
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (!is_lock(command)) return real(file, command, argument);
  ON_FILE("file-lock", file, lock_file(real, file, command, argument), int);
}
int fcntl64(int file, int command, ...) {
  REAL(fcntl64);
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (!is_lock(command)) return real(file, command, argument);
  ON_FILE("file-lock", file, lock_file(real, file, command, argument), int);
}

// Allocators map memory, too, and before the shim is ready: what is no shared file goes to the kernel at once.
static void *map(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  if (file >= 0 && (flags & MAP_SHARED) && concerns("map")) {
    char path[600];
    path_of(file, path, sizeof path);
    struct outcome first = act("map", "before", path);
    if (first.fails) return errno = first.fails, MAP_FAILED;
  }
  return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  return map(at, size, protection, flags, file, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset) {
  return map(at, size, protection, flags, file, offset);
}
