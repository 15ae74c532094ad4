/* Makes writes to a closed standard output fail.
 *
 * Rust's start-up code opens /dev/null in place of a closed standard output, so a report would be lost
 * without an error. This function runs before that code and opens /dev/null for reading only: each write
 * then fails with EBADF. It is C because the Rust code of this program contains no unsafe code. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void refuse_closed_stdout(void) {
    if (fcntl(STDOUT_FILENO, F_GETFD) != -1 || errno != EBADF) {
        return;
    }
    int unwritable = open("/dev/null", O_RDONLY);
    if (unwritable != -1 && unwritable != STDOUT_FILENO) {
        dup2(unwritable, STDOUT_FILENO);
        close(unwritable);
    }
}
