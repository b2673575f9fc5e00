// Loaded into the product by LD_PRELOAD (see synced-copy.ts): keeps aside what a power loss would leave of the folder
// $SYNCED_COPY_OF, which is what was synced of it. $SYNCED_COPY is a folder with a file for each file and folder there that
// was ever synced, named INODE-BIRTH, since inodes are used again. That of a file has its bytes as they were when its
// last sync began. That of a folder has a line "file|folder INODE-BIRTH NAME" for each name that was in it then. Nothing else has to
// be watched: what was written, cut, moved or removed shows in the next sync, or is lost.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *watched, *kept;

__attribute__((constructor)) static void begin(void) {
  watched = getenv("SYNCED_COPY_OF");
  kept = getenv("SYNCED_COPY");
}

static void fail(const char *what) {
  dprintf(2, "synced-copy: %s: %s\n", what, strerror(errno));
  abort();
}

static int is_watched(int file) {
  char link[64], path[4096];
  if (watched == NULL || kept == NULL) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  long length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  size_t root = strlen(watched);
  return !strncmp(path, watched, root) && (path[root] == 0 || path[root] == '/');
}

// "INODE-BIRTH" of `path` beneath `folder`; of `folder` itself when the path is empty. 0 when it is gone by now.
static int name_of(int folder, const char *path, char *name, size_t size) {
  struct statx found;
  int flags = AT_SYMLINK_NOFOLLOW | (path[0] == 0 ? AT_EMPTY_PATH : 0);
  if (statx(folder, path, flags, STATX_INO | STATX_BTIME, &found) != 0) return 0;
  snprintf(name, size, "%llu-%lld.%09u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
           found.stx_btime.tv_nsec);
  return 1;
}

static void write_all(int file, const char *bytes, ssize_t size) {
  while (size > 0) {
    ssize_t written = syscall(SYS_write, file, bytes, size);
    if (written < 0) fail("write");
    bytes += written;
    size -= written;
  }
}

static void keep_bytes(int file, int copy) {
  static char buffer[256 * 1024];
  int source = file;
  for (off_t at = 0;;) {
    ssize_t size = syscall(SYS_pread64, source, buffer, sizeof buffer, at);
    if (size < 0 && errno == EBADF && source == file) {
      // Open for writing alone, and so none of SQLite's: to close another descriptor would give up the locks on those.
      char path[64];
      snprintf(path, sizeof path, "/proc/self/fd/%d", file);
      source = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
      continue;
    }
    if (size < 0) fail("read");
    if (size == 0) break;
    write_all(copy, buffer, size);
    at += size;
  }
  if (source != file) syscall(SYS_close, source);
}

static void keep_names(int folder, int copy) {
  int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *entries = again < 0 ? NULL : fdopendir(again);
  if (entries == NULL) fail("open a folder");
  for (struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
    char name[128], line[512];
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (!name_of(folder, entry->d_name, name, sizeof name)) continue;
    const char *kind = entry->d_type == DT_DIR ? "folder" : "file";
    int length = snprintf(line, sizeof line, "%s %s %s\n", kind, name, entry->d_name);
    write_all(copy, line, length);
  }
  closedir(entries);
}

// One sync at a time in all processes, so that an earlier state never takes the place of a later one.
static int synced(int file, int (*real)(int)) {
  if (!is_watched(file)) return real(file);
  char lock_path[4096], fresh[4096], path[4096], name[128];
  snprintf(lock_path, sizeof lock_path, "%s/lock", kept);
  int lock = syscall(SYS_openat, AT_FDCWD, lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock < 0 || flock(lock, LOCK_EX) != 0) fail("lock");
  struct stat found;
  if (fstat(file, &found) != 0 || !name_of(file, "", name, sizeof name)) fail("stat");
  snprintf(fresh, sizeof fresh, "%s/fresh", kept);
  snprintf(path, sizeof path, "%s/%s", kept, name);
  int copy = syscall(SYS_openat, AT_FDCWD, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (copy < 0) fail("open the copy");
  if (S_ISDIR(found.st_mode)) keep_names(file, copy);
  else keep_bytes(file, copy);
  syscall(SYS_close, copy);
  int result = real(file);
  int left = errno;
  if (result == 0 && renameat(AT_FDCWD, fresh, AT_FDCWD, path) != 0) fail("rename");
  syscall(SYS_close, lock);
  errno = left;
  return result;
}

int fsync(int file) {
  static int (*real)(int);
  if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  return synced(file, real);
}

int fdatasync(int file) {
  static int (*real)(int);
  if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  return synced(file, real);
}
