#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

// What the handler reads, it may read at any moment: a range that is half written explains a fault too much or too
// little, no more.
#define RANGES 512
static volatile long starts[RANGES], lengths[RANGES];
static volatile int numbers[RANGES]; // of the signals
static unsigned next;
static struct sigaction before_segv, before_bus;

static const char read_only[] =
	"ray-zerocopy: a write to the weights of a loaded model, which can only be read in this process: "
	"ray_zerocopy.isolation() is 'read-only' here, because RAY_ZEROCOPY_ISOLATION asks for it or because the system "
	"refuses more (a warning has said why). Write to a copy: tensor.clone(), copy.deepcopy(model). "
	"See docs/limits.md, \"Isolation\".\n";

static const char cut[] =
	"ray-zerocopy: the weights of a loaded model lie in a model file that was cut short, or on a disk that cannot be "
	"read, while the model was in use, so its values are lost. Do not write into model files: replace one by a new one "
	"(wrapper.save does), and who has the old one loaded keeps it.\n";

static void explain(const char *text, size_t length) {
	ssize_t written = write(STDERR_FILENO, text, length);
	(void)written;
}

static void on_fault(int number, siginfo_t *info, void *context) {
	long at = (long)info->si_addr;
	int ours = number == SIGBUS ? info->si_code > 0 : info->si_code == SEGV_ACCERR;
	for (unsigned i = 0; ours && i < RANGES; i++) {
		if (numbers[i] == number && at >= starts[i] && at - starts[i] < lengths[i]) {
			if (number == SIGBUS) {
				explain(cut, sizeof cut - 1);
			} else {
				explain(read_only, sizeof read_only - 1);
			}
			break;
		}
	}
	// The handler before this one has it, as if there were none here: what is done now is done once more, and fails
	// again. Calling it from here would confuse those that raise the signal anew when they have written their own text.
	sigaction(number, number == SIGBUS ? &before_bus : &before_segv, 0);
	if (info->si_code <= 0) { // sent by somebody
		raise(number);
	}
}

static void install(void) {
	struct sigaction ours;
	memset(&ours, 0, sizeof ours);
	ours.sa_sigaction = on_fault;
	ours.sa_flags = SA_SIGINFO | SA_ONSTACK; // as Go asks of every handler
	sigaction(SIGSEGV, &ours, &before_segv);
	sigaction(SIGBUS, &ours, &before_bus);
}

void ray_zerocopy_explain(long start, long length, int of_file) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	unsigned i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % RANGES;
	lengths[i] = 0;
	numbers[i] = of_file ? SIGBUS : SIGSEGV;
	starts[i] = start;
	lengths[i] = length;
	pthread_once(&once, install);
}
