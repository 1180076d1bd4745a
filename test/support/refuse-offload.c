// Preloaded into a process (LD_PRELOAD), this stands in for a kernel that does less: KUBEBUS_TEST_REFUSE is
//   all    no offload at all           uso    no UDP segmentation (before Linux 6.2)
//   write  offload agreed to, but every super-packet written to the device refused
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

static int refuses(const char* what) {
  const char* value = getenv("KUBEBUS_TEST_REFUSE");
  return value != NULL && strcmp(value, what) == 0;
}

int ioctl(int fd, unsigned long request, ...) {
  static int (*real)(int, unsigned long, ...);
  if (real == NULL) real = dlsym(RTLD_NEXT, "ioctl");
  va_list list;
  va_start(list, request);
  unsigned long argument = va_arg(list, unsigned long);
  va_end(list);
  if (request == TUNSETOFFLOAD && argument != 0 && (refuses("all") || (refuses("uso") && (argument & 0x60)))) {
    errno = EINVAL;
    return -1;
  }
  return real(fd, request, argument);
}

ssize_t writev(int fd, const struct iovec* iov, int count) {
  static ssize_t (*real)(int, const struct iovec*, int);
  if (real == NULL) real = dlsym(RTLD_NEXT, "writev");
  struct stat st;
  if (count > 1 && iov[0].iov_len == 10 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode)) {
    unsigned char kind = ((const unsigned char*)iov[0].iov_base)[1];  // gso_type
    if (kind != 0 && (refuses("write") || refuses("all") || (refuses("uso") && kind == 5))) {
      errno = EINVAL;
      return -1;
    }
  }
  return real(fd, iov, count);
}
