/* The container that holds a pod's namespaces, and the idle app of the examples:
 * waits for a signal to end, collects what it adopts. Linked statically. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }
static void collect(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
	signal(SIGTERM, end);
	signal(SIGINT, end);
	signal(SIGCHLD, collect);
	for (;;) pause();
}
