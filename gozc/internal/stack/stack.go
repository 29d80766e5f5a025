// Package stack makes the first call into Go from Python's main thread cheap. Importing it does that.
//
// Before its first call on a thread, the Go runtime asks the C library where the thread's stack lies
// (pthread_getattr_np). For a main thread, glibc finds out by reading /proc/self/maps line by line, which takes
// one to three milliseconds in a process with torch: as much as the rest of a load. The runtime only wants to
// know how deep the stack may grow, and assumes 32 KB below the caller, as it always did before Go 1.22, where
// the answer does not fit. So stack_linux.c, linked in the place of the C library's function, answers for the
// main thread that it does not know. Other threads, for which the answer costs nothing, get the C library's.
package stack
